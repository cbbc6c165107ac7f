"""The matrix: everything that can be asked of every operation of every surface, but for other
people's things, which are in `test_foreign.py`.

One test asks one kind of thing of one surface, and tells all operations that answer it wrongly.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.postgres.pool import Database
from tests.security.conftest import Target, Unharmed
from tests.security.credentials import ACCEPTED
from tests.security.matrix import (
    ABOUT_THINGS,
    APPLYING,
    CELLS,
    KINDS,
    SERVED,
    Cell,
    Kind,
    Try,
    summary,
)
from tests.security.routes import BY_SESSION_ALONE, CHAT, LOGIN
from tests.security.surfaces import ASKED, FRONTS, PRIMARY, Asked, Front, without_time
from tests.security.wire import Answer, send

ACTIONS = f"POST {CHAT}/turns/{{turn_id}}/actions"
HOSTILE = [kind for kind in KINDS if kind not in ("happy", *ABOUT_THINGS)]
ONE_BODY = ("no credential", "wrong credential", "another surface's", "revoked")
"""Kinds whose every answer is the same: they tell nothing of what is wrong."""


def test_no_operation_is_missing() -> None:
    """That `ASKED` are the application's, all of them, is asserted in `test_matrix.py`."""
    assert len(CELLS) == len(ASKED) * len(KINDS)
    told = summary(every=True)
    for asked in ASKED:
        assert told.count(f" {asked.name}\n") >= 3, asked.name
        assert Cell(asked, "happy") in APPLYING


async def park(target: Target, turn_id: str, thread_id: str) -> None:
    """Brings a turn to where it asks for an approval, by the engine's own statements."""
    async with target.product.postgres() as admin:
        tenant_id = await admin.fetchval("select tenant_id from turns where id = $1", turn_id)
    async with Database(target.product.database_url, size=1) as database:
        claimed = await database.fetch_many("claim_turns", [turn_id], "w", 60.0)
        assert len(claimed) == 1
        call = {"tool_call_id": "x", "tool_name": "pay", "args": {}}
        parked = await database.fetch_one(
            "park_turn", turn_id, tenant_id, 1, {}, 1, [], None, [call], 1000.0, thread_id
        )
        assert parked is not None


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
@pytest.mark.timeout(60)
async def test_a_valid_request_succeeds(target: Target, unharmed: Unharmed, front: Front) -> None:
    unharmed.rows_changed = True
    keys, wrong = target.owner.keys, []
    for asked in front.asked:
        ids = (await target.lodge(target.owner, front.name)).ids
        request, status = asked.request(ids, front.credential(keys)), asked.row.status
        if asked.name == ACTIONS:
            await park(target, ids["turn_id"], ids["thread_id"])
            status = 200
        if asked.name in BY_SESSION_ALONE:
            session = await target.new_session(target.owner)
            request = asked.request(ids, ACCEPTED["cookie"](replace(keys, session=session)))
        if asked.name == LOGIN:
            request = asked.request(ids, ())
        answer = await send(target.port, request)
        if answer.status != status:
            wrong.append((asked.name, answer.status, answer.body[:300]))
        elif asked.is_stream or status == 204:
            assert not answer.body, asked.name
        require_headers(front, asked, answer, is_known=True)
    assert not wrong


def cases() -> list[object]:
    """Kinds that apply anywhere on a surface."""
    found = {(cell.asked.front.name, cell.kind) for cell in APPLYING}
    return [
        pytest.param(front, kind, id=f"{front.name}-{kind}")
        for kind in HOSTILE
        for front in FRONTS
        if (front.name, kind) in found
    ]


@pytest.mark.parametrize(("front", "kind"), cases())
@pytest.mark.timeout(60)
async def test_is_refused(target: Target, unharmed: Unharmed, front: Front, kind: Kind) -> None:
    owner, wrong = target.owner, []
    told: dict[tuple[object, ...], str] = {}
    for cell in APPLYING:
        if cell.asked.front.name != front.name or cell.kind != kind:
            continue
        tries = list(cell.tries(owner.keys, owner.ids(front.name)))
        assert tries, cell.name
        for one in tries:
            answer = await send(target.port, one.request)
            unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)
            try:
                require_refusal(cell.asked, one, answer)
                for secret in owner.keys.secrets:
                    assert secret not in answer.body
            except AssertionError as error:
                said = str(error).partition("\n")[0]
                wrong.append(f"{cell.asked.name}: {one.name}: {said}")
            told[without_time(front, answer)] = f"{cell.asked.name}: {one.name}"
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])
    if kind in ONE_BODY:
        assert len(told) == len(
            {asked.operation.path.startswith("/agent") for asked in front.asked}
        )


def require_refusal(asked: Asked, one: Try, answer: Answer) -> None:
    """The status, in the dialect."""
    if one.is_verdict and answer.status == 400:
        assert set(answer.json) == {"valid", "errors", "warnings"}, answer.body[:300]
        assert answer.json["valid"] is False
        assert answer.json["errors"]
        return
    asked.front.require(answer, one.status, (one.name, one.request.target[:200]))
    if one.status in {413} and one.request.framing is not None:
        assert answer.header("connection") == "close", "the rest of the body would be read"
    if one.status == 405:
        allowed = set((answer.header("allow") or "").replace(" ", "").split(","))
        path = asked.operation.path
        known = {method for method, served in SERVED if served == path}
        assert allowed - {"HEAD"} == known, (path, allowed)
    require_headers(asked.front, asked, answer, is_known=one.status not in {401, 404, 405})


def require_headers(front: Front, asked: Asked, answer: Answer, *, is_known: bool) -> None:
    """Pages of other origins may read what chats of Kodey say, and nothing else."""
    is_open = asked.operation.path.startswith("/chat")
    origin = answer.header("access-control-allow-origin")
    assert origin == ("*" if is_open else None), (asked.name, origin)
    assert answer.header("access-control-allow-credentials") is None, asked.name
    assert front.name == PRIMARY or answer.header("set-cookie") is None, asked.name
    if front.name == "kodey" and is_known:
        for name in ("limit", "remaining", "reset"):
            assert (answer.header(f"x-ratelimit-{name}") or "").isdigit(), (asked.name, name)
