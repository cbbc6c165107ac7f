"""Pages of a list: by number, or behind and before cursors. Each says which others there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, Field
from starlette.requests import Request

from api.page_cursors import read_cursor, tell_cursor
from api.validation import QueryInt
from shared.errors import InvalidCursor, InvalidRequest
from shared.service.listing import Slice, TimeAndId
from shared.service.page_cursor import (
    decode_seq,
    decode_time_and_id,
    encode_seq,
    encode_time_and_id,
)

P = TypeVar("P")
T = TypeVar("T")

MOST: Final = 100
MAX_PAGE: Final = 2**53
"""What JSON keeps exactly; with `MOST` rows each it is still a place that Postgres can skip to."""
_PAIRS: Final = (("after", "before"), ("first", "last"), ("after", "last"), ("before", "first"))


class ZylonPageQuery(BaseModel):
    """`page` counts from 1; `first` of what is `after` a cursor, `last` of what is `before` one."""

    page: QueryInt | None = Field(default=None, ge=1, le=MAX_PAGE)
    page_size: QueryInt = Field(default=20, ge=1, le=MOST)
    page_order: Literal["ASC", "DESC"] = "ASC"
    after: str | None = None
    before: str | None = None
    first: QueryInt | None = Field(default=None, ge=1, le=MOST)
    last: QueryInt | None = Field(default=None, ge=1, le=MOST)
    total_count: bool = True


@dataclass(frozen=True, slots=True)
class Places(Generic[P]):
    """How the places of a list are written as cursors."""

    encode: Callable[[P], str]
    decode: Callable[[str], P]


def by_time(listing: str) -> Places[TimeAndId]:
    """Of a list by time and id; `listing` says which list."""
    return Places(
        lambda place: encode_time_and_id(*place, listing),
        lambda cursor: decode_time_and_id(cursor, listing),
    )


def by_seq(listing: str) -> Places[int]:
    """Of a list by a number that rises."""
    return Places(
        lambda place: encode_seq(place, listing), lambda cursor: decode_seq(cursor, listing)
    )


class Page(Generic[P]):
    """One page of a list: what to read, and then how to tell it."""

    def __init__(self, request: Request, query: ZylonPageQuery, places: Places[P]) -> None:
        """Raises `InvalidRequest`: the query asks for two pages at once, or a cursor is no good."""
        _require_one(query)
        self._request = request
        self._places = places
        self._tells_total = query.total_count
        is_newest_first = query.page_order == "DESC"
        self._is_reversed = bool(query.before) or query.last is not None
        wanted = query.last if self._is_reversed else query.first
        self._most = wanted or query.page_size
        name = "before" if self._is_reversed else "after"
        cursor = read_cursor(request, getattr(query, name), name)
        try:
            place = None if cursor is None else places.decode(cursor)
        except InvalidCursor:
            raise InvalidCursor(("query", name)) from None
        number = query.page or 1
        self._has_before = number > 1 or bool(query.after)
        self._has_after = bool(query.before)
        self.part: Slice[P] = Slice(
            place,
            is_newest_first != self._is_reversed,
            (number - 1) * self._most,
            self._most + 1,
        )

    def tell(
        self,
        rows: Sequence[T],
        total: int,
        render: Callable[[T], dict[str, Any]],
        place_of: Callable[[T], P],
    ) -> dict[str, Any]:
        """The page, of the rows that were read for `part`."""
        has_more = len(rows) > self._most
        shown = list(rows[: self._most])
        if self._is_reversed:
            shown.reverse()
        has_next = self._has_after if self._is_reversed else has_more
        has_previous = has_more if self._is_reversed else self._has_before
        told: dict[str, Any] = {"data": [render(row) for row in shown]}
        if shown and has_next:
            told["next_cursor"] = self._tell(place_of(shown[-1]))
        if shown and has_previous:
            told["previous_cursor"] = self._tell(place_of(shown[0]))
        told |= {"has_next_page": has_next, "has_previous_page": has_previous}
        return told | ({"total_count": total} if self._tells_total else {})

    def _tell(self, place: P) -> str | None:
        return tell_cursor(self._request, self._places.encode(place))


def place_in_time(row: Any) -> TimeAndId:
    """The place of a row in a list by time."""
    return row["created_at"], row["id"]


def _require_one(query: ZylonPageQuery) -> None:
    names = ("after", "before", "first", "last")
    given = {name for name in names if getattr(query, name)}
    if query.page is not None and given:
        raise InvalidRequest(("query", "page"), "Give a page or cursors, not both")
    for one, other in _PAIRS:
        if {one, other} <= given:
            raise InvalidRequest(("query", other), f"It cannot be given with {one}")
