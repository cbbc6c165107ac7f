"""Every route × what is asked of it: a valid request, no credential, somebody else's thing, an
unknown one, something malformed. Made from the route table, so that no route can be missing.

    python -m tests.security.matrix          counts, and what does not apply where
    python -m tests.security.matrix --all    every cell
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from typing import Literal

from shared.ids import new_id
from tests.security.routes import ROUTES, Place, Route
from tests.security.vectors import query_fields
from tests.security.wire import Headers, Request

Column = Literal["happy", "401", "404 foreign", "404 unknown", "422 path", "422 query", "422 body"]
COLUMNS: dict[Column, str] = {
    "happy": "",
    "401": "ask for no credential",
    "404 foreign": "name nothing in their path",
    "404 unknown": "name nothing in their path",
    "422 path": "name nothing in their path",
    "422 query": "take no query",
    "422 body": "take no body",
}
"""Each with the reason why it does not apply to a route."""
_FORM_WITHOUT_FILE = b'--x\r\ncontent-disposition: form-data; name="other"\r\n\r\nx\r\n--x--\r\n'


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing asked of one route."""

    route: Route
    column: Column

    @property
    def name(self) -> str:
        return f"{self.column}: {self.route.name}"

    @property
    def applies(self) -> bool:
        route = self.route
        match self.column:
            case "happy":
                return True
            case "401":
                return not route.is_public
            case "404 foreign" | "404 unknown" | "422 path":
                return route.has_id
            case "422 query":
                return bool(route.operation and route.operation.query)
            case "422 body":
                return route.has_body or route.has_form

    @property
    def status(self) -> int:
        return self.route.status if self.column == "happy" else int(self.column[:3])

    def request(self, place: Place, credential: Headers) -> Request:
        """`place` is where `credential` may act, but for `404 foreign`."""
        if self.column == "401":
            credential = ()
        if self.column == "404 unknown":
            place = Place(str(new_id()), str(new_id()))
        if self.column == "422 path":
            place = Place(**{field.name: "nonsense" for field in fields(Place)})
        request = self.route.request(place, credential)
        if self.column == "422 query":
            name = query_fields(self.route)[0]
            bare = replace(request, target=request.target.partition(b"?")[0])
            return bare.with_query(f"{name}=1&{name}=2".encode())
        if self.column == "422 body" and self.route.has_form:
            return request.with_body(_FORM_WITHOUT_FILE)
        return request.with_body(b"[]") if self.column == "422 body" else request


CELLS = [Cell(route, column) for column in COLUMNS for route in ROUTES]
APPLYING = [cell for cell in CELLS if cell.applies]


def summary(*, every: bool = False) -> str:
    """Counts by column, and the routes to which a column does not apply."""
    lines = [f"{len(ROUTES)} routes, {len(APPLYING)} cells"]
    for column, reason in COLUMNS.items():
        applying = [c.route.name for c in APPLYING if c.column == column]
        others = [c.route.name for c in CELLS if c.column == column and not c.applies]
        rest = f"; {len(others)} {reason}" if others else ""
        lines.append(f"{column:12}{len(applying):4}{rest}")
        if every:
            lines += [f"    {name}" for name in applying]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.security.matrix")
    parser.add_argument("--all", action="store_true", help="every cell")
    print(summary(every=parser.parse_args().all))


if __name__ == "__main__":
    main()
