"""A09 to A11: somebody else's ids look like ids that do not exist, to everybody, on every route."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.ids import new_id
from shared.service.page_cursor import encode_cursor
from tests.security.conftest import Party, Target, Unharmed, count_rows
from tests.security.credentials import ACCEPTED, bearer
from tests.security.routes import CHAT, WITH_ID, WITH_QUERY, Place, Route
from tests.security.vectors import query_fields
from tests.security.wire import Answer, Request, send

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}")
_JSON = (b"content-type", b"application/json")


STRANGER, COLLEAGUE = "another tenant", "a colleague"


def variants(route: Route, request: Request) -> list[Request]:
    """The valid request, and such as take other ways through the code."""
    found = [request]
    if route.method == "GET":
        for header in (
            (b"prefer", b"wait=1"),
            (b"if-none-match", b"*"),
            (b"last-event-id", b"1-1"),
        ):
            found.append(request.with_headers(header))
        found += [request.with_query(query) for query in (b"after=1-1", b"limit=1")]
        found.append(replace(request, target=_UUID.sub(lambda id_: id_[0].upper(), request.target)))
    if route.takes("Idempotency-Key"):
        for key in (b"theirs", b"another"):
            found.append(request.with_headers((b"idempotency-key", key)))
        valid = orjson.loads(request.body or b"{}")
        found.append(request.with_body(orjson.dumps(valid | {"onConflict": "reject"})))
    return found


def without_right() -> list[Any]:
    """Every route with an id, and who may not use it with the owner's."""
    return [
        pytest.param(route, who, id=f"{route.name}-{who}")
        for route in WITH_ID
        for who in (STRANGER, COLLEAGUE)
        if who == STRANGER or not route.is_shared
    ]


@pytest.mark.parametrize(("route", "who"), without_right())
async def test_foreign_ids_answer_as_unknown_ones(
    target: Target, unharmed: Unharmed, route: Route, who: str
) -> None:
    intruder = target.stranger if who == STRANGER else target.colleague
    theirs = target.owner.place
    before = await look(target, theirs)
    for make in ACCEPTED.values():
        credential = make(intruder.keys)
        unknown = Place(str(new_id()), str(new_id()))
        foreign_requests = variants(route, route.request(theirs, credential))
        unknown_requests = variants(route, route.request(unknown, credential))
        for foreign, absent in zip(foreign_requests, unknown_requests, strict=True):
            answer = await send(target.port, foreign)
            assert answer.status == 404, (foreign, answer.body)
            assert answer.told() == (await send(target.port, absent)).told(), foreign
            assert theirs.thread_id.encode() not in answer.body
    # A turn's id is no thread's id and the other way round, also among one's own.
    own = intruder.place
    swapped = route.request(Place(own.turn_id, own.thread_id), bearer(intruder.keys.good))
    assert (await send(target.port, swapped)).status == 404
    assert await look(target, theirs) == before


async def look(target: Target, place: Place, party: Party | None = None) -> list[Any]:
    """All that the owner sees of thread and turn."""
    credential = bearer((party or target.owner).keys.good)
    answers = [
        await send(target.port, Request(b"GET", path.encode(), credential))
        for path in (
            f"{CHAT}/threads/{place.thread_id}",
            f"{CHAT}/threads/{place.thread_id}/messages",
            f"{CHAT}/threads/{place.thread_id}/turns",
            f"{CHAT}/turns/{place.turn_id}",
            f"{CHAT}/threads/{place.thread_id}/attachments",
            f"{CHAT}/attachments/{place.attachment_id}",
            f"/api/v1/artifacts/{place.artifact_id}",
            f"{CHAT}/feedback?threadId={place.thread_id}",
            f"/api/v1/automations/{place.automation_id}",
            f"/api/v1/automation-runs/{place.run_id}",
        )
    ]
    assert [answer.status for answer in answers] == [200] * 10
    return [answer.json for answer in answers]


async def test_a_replay_is_the_same_users(target: Target, unharmed: Unharmed) -> None:
    """A foreign idempotency key is just a key: no replay, no conflict."""
    unharmed.rows_changed = True
    answers = []
    for party in (target.owner, target.colleague, target.stranger):
        place = await target.new_place(party)
        path = f"{CHAT}/threads/{place.thread_id}/turns".encode()
        body = orjson.dumps({"message": "x", "modelId": "scripted"})
        request = Request(b"POST", path, bearer(party.keys.good), body)
        answers.append(
            await send(target.port, request.with_headers(_JSON, (b"idempotency-key", b"shared")))
        )
    assert [answer.status for answer in answers] == [202] * 3
    assert len({answer.json["id"] for answer in answers}) == 3
    assert all(answer.header("idempotency-replayed") is None for answer in answers)


def items_of(answer: Answer) -> set[str]:
    return {item["id"] for item in answer.json["items"]}


async def all_items(target: Target, request: Request) -> set[str]:
    """Of all pages."""
    found: set[str] = set()
    cursor = ""
    while True:
        answer = await send(target.port, request.with_query(f"limit=100{cursor}".encode()))
        found |= items_of(answer)
        if answer.json["nextCursor"] is None:
            return found
        cursor = f"&cursor={answer.json['nextCursor']}"


LISTS = [route for route in WITH_QUERY if "cursor" in query_fields(route)]


@pytest.mark.parametrize("route", LISTS, ids=lambda route: route.name)
async def test_a_changed_cursor_shows_nothing_foreign(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """A11: cursors are not signed, so they must not matter: rows stay one's own."""
    unharmed.rows_changed = True
    for party in (target.owner, target.stranger):
        for _ in range(3):
            await target.new_place(party)
    own = target.stranger
    request = route.request(own.place, bearer(own.keys.good))
    everything = await all_items(target, request)
    theirs = route.request(target.owner.place, bearer(target.owner.keys.good))
    foreign = await all_items(target, theirs)
    assert everything
    assert foreign
    assert not everything & foreign
    owner = target.owner.place
    issued = (await send(target.port, theirs.with_query(b"limit=1"))).json["nextCursor"]
    places: list[list[Any]] = [
            ["all", 2**63 - 1], ["all", 0], [owner.thread_id, 2**63 - 1],
            [own.place.thread_id, 2**63 - 1], [f"asc:{owner.thread_id}", 0],
            [f"desc:{owner.thread_id}", 2**63 - 1], [f"asc:{own.place.thread_id}", 0],
            [2**62, owner.thread_id], [253_402_300_799_999_999, str(new_id())],
            [0, owner.thread_id],
            [2**63 - 1, owner.thread_id], ["all", -1], ["all", 2**63], ["all", 1.5], ["all", None],
            ["all", "1"], [True, owner.thread_id], [[], {}], ["all' or 1=1 --", 1], [0, "x"], [],
            ["all", 1, 1],
    ]  # fmt: skip
    forged = [encode_cursor(keys) for keys in places]
    if issued is not None:
        forged += [issued, issued[:-1], issued[::-1], issued.swapcase(), issued + "A"]
        raw = base64.urlsafe_b64decode(issued + "=" * (-len(issued) % 4))
        for index in range(len(raw)):
            flipped = raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]
            forged.append(base64.urlsafe_b64encode(flipped).rstrip(b"=").decode())
    for cursor in forged:
        answer = await send(target.port, request.with_query(f"limit=100&cursor={cursor}".encode()))
        assert answer.status in {200, 422}, (cursor, answer.status, answer.body)
        if answer.status == 200:
            assert items_of(answer) <= everything, cursor


async def test_a_bulk_delete_reaches_only_ones_own(target: Target, unharmed: Unharmed) -> None:
    """Foreign ids count as unknown ones."""
    victims = (target.owner, target.stranger)
    before = [await look(target, party.place, party) for party in victims]
    ids = [party.place.thread_id for party in victims]
    path = f"{CHAT}/threads/bulk-delete".encode()
    for body in ({"threadIds": ids}, {"threadIds": ids, "all": False}):
        request = Request(b"POST", path, bearer(target.colleague.keys.good), orjson.dumps(body))
        answer = await send(target.port, request.with_headers(_JSON))
        assert (answer.status, answer.json) == (200, {"deletedCount": 0})
    assert [await look(target, party.place, party) for party in victims] == before


async def test_filters_show_only_own_rows(target: Target, unharmed: Unharmed) -> None:
    own = target.colleague
    listed = Request(b"GET", f"{CHAT}/threads".encode(), bearer(own.keys.good))
    mine = await all_items(target, listed)
    for query in (
        f"concurrencyKey=thread:{target.owner.place.thread_id}",
        "status=pending",
        f"threadId={target.owner.place.thread_id}",
        "userId=1&tenantId=1",
    ):
        request = Request(b"GET", f"{CHAT}/turns?{query}".encode(), bearer(own.keys.good))
        seen = (await send(target.port, request)).json["items"]
        assert {item["threadId"] for item in seen} <= mine, query


async def test_counting_rows_sees_every_table(target: Target) -> None:
    async with target.product.postgres() as admin:
        assert {"tenants", "users", "api_keys", "threads", "turns", "messages"} <= set(
            await count_rows(admin)
        )
