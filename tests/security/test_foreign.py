"""On every operation of every surface: what is somebody else's looks like what does not exist.

Each thing that a request can name, in its path, its query or its body, is named once as another
tenant's, as a colleague's and as nobody's. The answers are the same bytes, and the owner's things
are as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from api.page_cursors import CursorSigner
from shared.service.page_cursor import encode_cursor, encode_time_and_id
from shared.turn.model import CredentialKind
from tests.acceptance.product import PEPPER
from tests.security.conftest import Target, Unharmed, count_rows
from tests.security.lodgings import Lodging
from tests.security.matrix import APPLYING, Cell, Named, named
from tests.security.routes import CHAT
from tests.security.surfaces import ASKED, FRONTS, Asked, Front, Ids, unknown, without_time
from tests.security.wire import Answer, Headers, Request, send

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z|\"created(?:_at)?\":\d{10}\b")
STRANGER, COLLEAGUE, BROWSER = "another tenant", "a colleague", "another publishable key"
REGENERATE = f"POST {CHAT}/threads/{{thread_id}}/turns"


@dataclass(frozen=True)
class Intruder:
    """Somebody, with a good credential, and the things of the owner's that are not theirs."""

    who: str
    credential: Headers
    own: Ids
    theirs: Ids
    spared: frozenset[str] = frozenset()


async def find_intruders(target: Target, front: Front, owners: Lodging) -> list[Intruder]:
    """With every kind of good key."""
    mine = await target.lodge(target.stranger, front.name)
    keys = target.stranger.keys
    found = [
        Intruder(STRANGER, front.carry(keys.of[kind]), mine.ids, theirs)
        for kind in sorted(front.takes)
        for theirs in (owners.ids, *(ids for ids in owners.private if ids != owners.ids))
    ]
    mine = await target.lodge(target.colleague, front.name)
    keys = target.colleague.keys
    found += [
        Intruder(COLLEAGUE, front.carry(keys.of[kind]), own, theirs, front.shared)
        for kind in sorted(front.takes)
        for own, theirs in zip(mine.private, owners.private, strict=True)
    ]
    if front.name == "kodey":
        nothing = {name: unknown(front, name) for name in mine.ids if name not in front.shared}
        for keys in (target.owner.keys, target.colleague.keys):
            public = front.carry(keys.of[CredentialKind.KODEY_PUBLISHABLE])
            own = owners.ids | nothing
            found.append(Intruder(BROWSER, public, own, owners.ids, front.shared))
    return found


def without_names(front: Front, answer: Answer, named: Named, ids: Ids) -> tuple[Any, ...]:
    """What is told but for what was asked, ids of what was made, and the time."""
    status, headers, body = answer.told()
    for name in named.names:
        for text in (ids[name], quote(ids[name])):
            body = body.replace(text.encode(), b"<asked>")
    body = _TIME.sub(b"<time>", body)
    headers = tuple(pair for pair in headers if not pair[0].startswith("x-ratelimit-"))
    headers = tuple(
        (name, _UUID.sub(b"<id>", value.encode()).decode())
        for name, value in headers
        if name != "content-length"  # as long as the name that was asked for
    )
    if status < 400:
        body = _UUID.sub(b"<id>", body)
    return status, headers, body


async def rows_of(target: Target, ids: Sequence[str]) -> set[str]:
    """Every row of every table that says anything about these things."""
    patterns = [f"%{id_}%" for id_ in ids]
    found: set[str] = set()
    async with target.product.postgres() as admin:
        for table in await count_rows(admin):
            rows = await admin.fetch(
                f'select t::text as row from "{table}" t where t::text like any($1)',  # noqa: S608
                patterns,
            )
            found |= {f"{table} {row['row']}" for row in rows}
    return found


def plain(ids: Ids) -> list[str]:
    """Ids as the tables have them."""
    found = []
    for text in ids.values():
        digits = text.rpartition("_")[2]
        if re.fullmatch(r"[0-9a-f]{32}", digits):
            parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
            found.append("-".join(parts))
        elif _UUID.search(text.encode()):
            found.append(text)
    return found


async def look(target: Target, front: Front, *places: Ids) -> list[Any]:
    """All that the owner sees there of what these name."""
    seen = []
    for ids in places:
        for asked in front.asked:
            is_theirs = bool(set(asked.parameters) - front.shared)
            if asked.operation.method == "GET" and is_theirs and not asked.is_stream:
                request = asked.request(ids, front.credential(target.owner.keys))
                answer = await send(target.port, request)
                seen.append((asked.name, answer.status, answer.body))
    return seen


def cases() -> list[Any]:
    named_in = {cell.asked.name for cell in APPLYING if cell.kind == "foreign id"}
    return [
        pytest.param(front, asked, id=f"{front.name}-{asked.name}")
        for front in FRONTS
        for asked in front.asked
        if asked.name in named_in
    ]


@pytest.mark.parametrize(("front", "asked"), cases())
@pytest.mark.timeout(60)
async def test_what_is_foreign_looks_like_nothing(
    target: Target, unharmed: Unharmed, front: Front, asked: Asked
) -> None:
    unharmed.rows_changed = True
    owner = target.owner
    lodging = owner.lodgings[front.name]
    if front.name == "mechamental":  # where asking for a name may make a thread of it
        lodging = await target.lodge(owner, front.name)
    places = (lodging.ids, *lodging.private)
    theirs = [id_ for ids in places for id_ in plain(ids) if id_ != owner.keys.tenant_id]
    before = await rows_of(target, theirs), await look(target, front, *places)
    assert {status for _, status, _ in before[1]} == {200}, "an earlier test has destroyed it"
    wrong: list[str] = []
    tried: set[str] = set()
    for intruder in await find_intruders(target, front, lodging):
        if asked.name == REGENERATE:  # which must not fail for another reason
            cancel = f"{CHAT}/threads/{intruder.own['thread_id']}/turns/cancel".encode()
            request = Request(b"POST", cancel, intruder.credential, b"")
            assert (await send(target.port, request)).status == 204
        for one in named(asked, intruder.own, intruder.theirs, intruder.spared):
            problem = await compare(target, asked, intruder, one)
            tried.add(intruder.who)
            if problem:
                wrong.append(f"{intruder.who}, {'+'.join(one.names)}: {problem}")
    assert not wrong, "\n".join(wrong[:20])
    assert STRANGER in tried
    assert (COLLEAGUE in tried) == Cell(asked, "private id").applies
    assert await look(target, front, *places) == before[1]
    rows = await rows_of(target, theirs)
    assert before[0] <= rows, sorted(before[0] - rows)


async def compare(target: Target, asked: Asked, intruder: Intruder, one: Named) -> str | None:
    """What differs; None: nothing does, and both are refused as they should be."""
    answers = []
    for ids in (one.foreign, one.absent):
        request = asked.request(ids, intruder.credential, one.row)
        answer = await send(target.port, request)
        if answer.status >= 400:
            asked.front.require(answer, answer.status, request.target)
        answers.append(without_names(asked.front, answer, one, ids))
    foreign, absent = answers
    if foreign != absent:
        return f"{foreign} is not {absent}"
    is_forbidden = foreign[0] == 403 and asked.operation.path.startswith("/agent")
    if foreign[0] not in asked.row.absent and not is_forbidden:
        return f"answered {foreign}"
    return None


_AT = datetime(2020, 1, 1, tzinfo=UTC)
CURSORS: dict[str, tuple[str, str, Callable[[UUID], str]]] = {
    "mm_list_messages": ("cursor", "thread_id", lambda id_: encode_cursor([f"asc:{id_}", 0])),
    "zylon_list_interactions": (
        "after", "thread_id", lambda id_: encode_cursor([f"interactions:{id_}", 0]),
    ),
    "zylon_list_threads": (
        "after", "project_id", lambda id_: encode_time_and_id(_AT, id_, f"threads:{id_}"),
    ),
    "zylon_list_artifacts": (
        "after", "project_id", lambda id_: encode_time_and_id(_AT, id_, f"artifacts:{id_}"),
    ),
}  # fmt: skip
"""Operation → what takes a cursor, which thing it is bound to, and how one is made."""


@pytest.mark.parametrize("operation_id", CURSORS)
async def test_a_cursor_of_somebody_elses_list_is_none(
    target: Target, unharmed: Unharmed, operation_id: str
) -> None:
    (asked,) = (asked for asked in ASKED if asked.operation.operation_id == operation_id)
    front, (field, name, make) = asked.front, CURSORS[operation_id]
    (own,) = target.stranger.lodgings[front.name].private[-1:]
    (theirs,) = target.owner.lodgings[front.name].private[-1:]
    request = asked.request(own, front.credential(target.stranger.keys))
    answers = []
    for id_ in (own[name], theirs[name], unknown(front, name)):
        cursor = make(UUID(id_.rpartition("_")[2]))
        (prefix,) = front.prefixes
        cursor += CursorSigner(PEPPER.encode()).sign(prefix, cursor)
        answers.append(await send(target.port, request.with_query(f"{field}={cursor}".encode())))
    good, foreign, absent = answers
    assert good.status == 200, good.body
    front.require(foreign, front.invalid, "foreign")
    assert without_time(front, foreign) == without_time(front, absent)


async def test_a_response_is_replayed_to_its_own_user_alone(
    target: Target, unharmed: Unharmed
) -> None:
    unharmed.rows_changed = True
    (asked,) = (asked for asked in ASKED if asked.operation.operation_id == "create_response")
    ids = []
    for party in (target.owner, target.owner, target.colleague, target.stranger):
        credential = asked.front.credential(party.keys)
        request = asked.request(party.ids(asked.front.name), credential)
        key = (b"idempotency-key", b"of them all")
        answer = await send(target.port, request.with_headers(key))
        assert answer.status == 200, answer.body
        ids.append(answer.json["id"])
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
