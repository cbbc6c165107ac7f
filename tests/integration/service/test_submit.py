"""Submitting: accepted once, whatever is repeated, raced, cut or cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic import SecretStr

from shared.errors import (
    ConcurrencyConflict,
    IdempotencyKeyReused,
    PostgresUnavailable,
    ThreadNotFound,
    TurnNotFound,
)
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.turn.model import Accepted, ConflictPolicy, Principal
from shared.turn.state import TurnStatus
from tests.fixtures.proxy import open_link, postgres_dsn_through, postgres_upstream
from tests.fixtures.system import Api, MakeTurn, StartWorker, add_principal, add_thread, follow_all


async def submit_all(api: Api, turns: list[Any]) -> list[Accepted | BaseException]:
    return await asyncio.gather(*(api.turns.submit(new) for new in turns), return_exceptions=True)


async def test_fifty_submits_with_one_key_make_one_turn(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    def again() -> Any:
        return make_turn("the same", idempotency_key="once")

    outcomes = await submit_all(api, [again() for _ in range(50)])
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    (turn_id,) = {outcome.turn.id for outcome in accepted}
    assert Counter(outcome.replayed for outcome in accepted) == {True: 49, False: 1}
    await start_worker()
    await api.end_of(accepted[0].turn)
    later = await submit_all(api, [again() for _ in range(10)])
    assert {outcome.turn.id for outcome in later if isinstance(outcome, Accepted)} == {turn_id}
    for table in ("turns", "idempotency_keys", "usage"):
        assert await admin.fetchval(f"select count(*) from {table}") == 1, table  # noqa: S608
    assert await admin.fetchval("select count(*) from messages") == 2
    assert (await api.reload(accepted[0].turn)).attempt == 1


async def test_a_key_stands_for_one_request(api: Api, make_turn: MakeTurn, admin: Any) -> None:
    await api.turns.submit(make_turn("one", idempotency_key="k"))
    with pytest.raises(IdempotencyKeyReused):
        await api.turns.submit(make_turn("another", idempotency_key="k"))
    assert await admin.fetchval("select count(*) from turns") == 1


async def test_another_tenant_may_use_the_same_key(
    api: Api, make_turn: MakeTurn, admin: Any
) -> None:
    stranger = await add_principal(admin)
    theirs = make_turn(
        "a", idempotency_key="k", principal=stranger, thread=await add_thread(admin, stranger)
    )
    first = await api.turns.submit(make_turn("b", idempotency_key="k"))
    second = await api.turns.submit(theirs)
    assert first.turn.id != second.turn.id
    with pytest.raises(TurnNotFound):
        await api.turns.get(stranger, first.turn.id)


async def test_reject_lets_exactly_one_of_many_in(
    api: Api, make_turn: MakeTurn, admin: Any
) -> None:
    turns = [make_turn(policy=ConflictPolicy.REJECT) for _ in range(20)]
    outcomes = await submit_all(api, turns)
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, ConcurrencyConflict)]
    assert (len(accepted), len(refused)) == (1, 19)
    assert {conflict.turn_id for conflict in refused} == {str(accepted[0].turn.id)}
    assert await admin.fetchval("select count(*) from turns") == 1
    assert await admin.fetchval("select count(*) from idempotency_keys") == 1


async def test_a_rejected_key_may_be_used_again_and_an_accepted_one_replays(
    api: Api, make_turn: MakeTurn, principal: Principal
) -> None:
    def attempt() -> Any:
        return make_turn("x", policy=ConflictPolicy.REJECT, idempotency_key="k")

    blocker = await api.submit(make_turn())
    with pytest.raises(ConcurrencyConflict):
        await api.turns.submit(attempt())
    await api.cancels.cancel(principal, blocker.id)
    first = await api.turns.submit(attempt())
    again = await api.turns.submit(attempt())
    assert (first.replayed, again.replayed) == (False, True)
    assert first.turn.id == again.turn.id


async def test_an_unknown_thread_is_refused_without_a_trace(
    api: Api, make_turn: MakeTurn, admin: Any
) -> None:
    for policy in (ConflictPolicy.ENQUEUE, ConflictPolicy.REJECT):
        with pytest.raises(ThreadNotFound):
            await api.turns.submit(make_turn(thread=new_id(), policy=policy))
    assert await admin.fetchval("select count(*) from idempotency_keys") == 0


@pytest.mark.parametrize("policy", [ConflictPolicy.ENQUEUE, ConflictPolicy.REJECT])
async def test_a_commit_whose_answer_is_lost_is_found_again(
    open_api: Any, make_turn: MakeTurn, database_url: str, admin: Any, policy: ConflictPolicy
) -> None:
    async with open_link(postgres_upstream(database_url)) as link:
        api = await open_api(database_url=SecretStr(postgres_dsn_through(link, database_url)))
        await api.submit(make_turn(key="warm"))  # statements are prepared now
        new = make_turn("precious", policy=policy, idempotency_key="k")
        # An accept in a group commits with its Sync; one of its own sends a commit.
        link.drop_reply_to = b"commit\0" if policy is ConflictPolicy.REJECT else b"precious"
        accepted = await api.turns.submit(new)
        assert link.dropped_replies == 1, "the fault did not happen"
        assert (accepted.turn.id, accepted.replayed) == (new.id, False)
        again = await api.turns.submit(make_turn("precious", policy=policy, idempotency_key="k"))
        assert (again.turn.id, again.replayed) == (new.id, True)
        assert await admin.fetchval("select count(*) from turns") == 2


async def test_a_commit_that_did_not_happen_is_said_to_have_failed(
    api: Api, make_turn: MakeTurn, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise PostgresUnavailable("gone before it was sent")

    new = make_turn("x", idempotency_key="k")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "fetch_many", fail)
        with pytest.raises(PostgresUnavailable):
            await api.turns.submit(new)
    assert await admin.fetchval("select count(*) from turns") == 0
    assert (await api.turns.submit(new)).turn.id == new.id


async def test_postgres_away_is_said_within_seconds(
    open_api: Any, make_turn: MakeTurn, database_url: str
) -> None:
    async with open_link(postgres_upstream(database_url)) as link:
        link.refuses = True
        api = await open_api(database_url=SecretStr(postgres_dsn_through(link, database_url)))
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(PostgresUnavailable):
            await api.turns.submit(make_turn())
        assert loop.time() - began < 5
        link.refuses = False
        await api.turns.submit(make_turn())


async def test_a_turn_that_ended_before_anyone_listened_is_told_whole(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=4))
    await api.end_of(turn)
    batches = await follow_all(api.hub, turn)  # with the stale, pending row
    assert batches[-1].last.seq == 6


async def test_lists_are_newest_first_and_page(
    api: Api, make_turn: MakeTurn, principal: Principal, thread: Any
) -> None:
    turns = [await api.submit(make_turn()) for _ in range(5)]
    everything: dict[str, Any] = {
        "thread_id": thread, "status": None, "concurrency_key": None, "before_seq": None,
    }  # fmt: skip
    page = await api.turns.list_turns(principal, **everything, limit=3)
    assert [turn.id for turn in page] == [turn.id for turn in turns[:1:-1]]
    everything["before_seq"] = page[-1].accept_seq
    rest = await api.turns.list_turns(principal, **everything, limit=3)
    assert [turn.id for turn in rest] == [turn.id for turn in turns[1::-1]]
    everything |= {"status": TurnStatus.RUNNING, "before_seq": None}
    assert await api.turns.list_turns(principal, **everything, limit=3) == []
    assert await api.turns.count_ahead(turns[3]) == 3
