"""Postgres decides: each statement of a turn's life, alone and against its rivals."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.errors import PostgresBusy
from shared.ids import new_id
from shared.postgres.batches import columns
from shared.postgres.pool import Database
from shared.turn.model import NewTurn, Principal
from shared.turn.state import TurnStatus
from tests.fixtures.chance import seeded
from tests.fixtures.system import MakeTurn, add_thread
from tests.integration.postgres.desk import Desk


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


async def accept_many(desk: Desk, make_turn: MakeTurn, count: int, **wanted: Any) -> list[NewTurn]:
    turns = [make_turn(**wanted) for _ in range(count)]
    for turn in turns:
        assert await desk.accept(turn) is not None
    return turns


async def limit_key(admin: Any, principal: Principal, key: str, limit: int) -> None:
    await admin.execute(
        "insert into concurrency_limits values ($1, $2, $3)", principal.tenant_id, key, limit
    )


# -- accept


async def test_an_accept_tells_how_many_go_first(desk: Desk, make_turn: MakeTurn) -> None:
    positions = [(await desk.accept(make_turn()))["position"] for _ in range(4)]
    assert positions == [0, 1, 2, 3]


async def test_an_accept_writes_turn_message_key_and_thread_in_one(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    new = make_turn("Hello  there")
    await desk.accept(new)
    row = await desk.row(new.id, new.principal.tenant_id)
    assert (row["status"], row["attempt"], row["max_running"]) == ("pending", 0, 1)
    message = await admin.fetchrow("select * from messages where id = $1", new.input_message_id)
    assert (message["content"], message["role"], message["turn_seq"]) == (
        "Hello  there", "user", row["accept_seq"],
    )  # fmt: skip
    thread = await admin.fetchrow("select * from threads where id = $1", new.thread_id)
    assert (thread["title"], thread["last_message_preview"]) == ("Hello there", "Hello there")
    assert thread["last_turn_id"] == new.id
    assert await admin.fetchval("select count(*) from idempotency_keys") == 1


async def test_an_accept_for_a_foreign_thread_leaves_no_trace(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    stranger = Principal(principal.tenant_id, new_id(), new_id())
    for new in (make_turn(principal=stranger), make_turn(thread=new_id())):
        assert await desk.accept(new) is None
    assert await admin.fetchval("select count(*) from idempotency_keys") == 0


async def test_one_bad_accept_does_not_spoil_its_batch(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    good = [make_turn() for _ in range(20)]
    bad = make_turn("\0 cannot be stored")
    known = make_turn()
    await desk.accept(known)
    outcomes = await asyncio.gather(
        *(desk.accept(new) for new in [*good[:10], bad, known, *good[10:]]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[10], asyncpg.PostgresError)
    assert outcomes[11] is None
    others = outcomes[:10] + outcomes[12:]
    assert [row["id"] for row in others] == [new.id for new in good]  # type: ignore[index]
    assert await admin.fetchval("select count(*) from turns") == 21


async def test_accepts_on_many_threads_do_not_wait_for_each_other(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    threads = [await add_thread(admin, principal) for _ in range(8)]
    chance = seeded(3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for _ in range(600):
            group.create_task(desk.accept(make_turn(thread=chance.choice(threads))))
    took_s = loop.time() - began
    await desk.database.close()  # only then are its statistics complete
    deadlocks = await admin.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert deadlocks == 0, f"600 accepts took {took_s:.1f} s"


# -- claim


async def test_a_claim_takes_turns_of_a_key_in_accept_order(
    desk: Desk, make_turn: MakeTurn
) -> None:
    turns = await accept_many(desk, make_turn, 4)
    assert await desk.claim(turns[1].id) is None
    for new in turns:
        claimed = await desk.claim(new.id)
        assert claimed["attempt"] == 1
        assert await desk.claim(new.id) is None
        for other in turns:
            assert await desk.claim(other.id) is None
        assert await desk.end(new, 1) is not None


async def test_a_limit_of_three_holds_three(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "wide", 3)
    turns = await accept_many(desk, make_turn, 5, key="wide")
    for new in turns[:3]:
        assert await desk.claim(new.id) is not None
    assert await desk.claim(turns[3].id) is None
    await desk.end(turns[1], 1)
    assert await desk.claim(turns[4].id) is None, "it is not its turn"
    claimed = await desk.claim(turns[3].id)
    assert claimed is not None
    slots = await admin.fetch("select slot from turns where status = 'running'")
    assert sorted(row["slot"] for row in slots) == [1, 2, 3]


async def test_an_overdue_turn_is_not_claimed(desk: Desk, make_turn: MakeTurn) -> None:
    new = make_turn()
    await desk.accept(new, queue_ttl_s=0.0)
    assert await desk.claim(new.id) is None


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("seed", range(3))
async def test_rival_claimers_never_pass_the_limit_nor_the_order(
    desk: Desk,
    make_turn: MakeTurn,
    admin: Any,
    principal: Principal,
    limit: int,
    seed: int,
) -> None:
    await limit_key(admin, principal, "k", limit)
    turns = await accept_many(desk, make_turn, 30, key="k")
    order = {new.id: place for place, new in enumerate(turns)}
    by_id = {new.id: new for new in turns}
    chance = seeded(seed)
    running: set[UUID] = set()
    started: list[UUID] = []
    most = 0

    async def claimer(name: str) -> None:
        nonlocal most
        while len(started) < len(turns):
            wanted = [new.id for new in turns if new.id not in started]
            batch = sorted(chance.sample(wanted, min(len(wanted), 6)))
            try:
                rows = await desk.database.fetch_many("claim_turns", batch, name, 60.0)
            except (asyncpg.UniqueViolationError, PostgresBusy):
                continue
            for row in rows:
                running.add(row["id"])
                started.append(row["id"])
            most = max(most, len(running))
            assert len(running) <= limit
            await asyncio.sleep(chance.random() * 0.002)
            for row in rows:
                running.discard(row["id"])
                assert await desk.end(by_id[row["id"]], row["attempt"]) is not None

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(claimer(f"w{number}"))
    assert most > 1 or limit == 1, "that the limit is reached is the test above"
    assert len(started) == len(set(started)) == len(turns)
    if limit == 1:
        assert [order[turn_id] for turn_id in started] == list(range(len(turns)))


# -- end


async def test_only_the_present_attempt_ends_a_turn(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    assert await desk.end(new, 0) is None, "it does not run"
    await desk.claim(new.id)
    await desk.reap(new.id, 1, ["w1"])
    await desk.claim(new.id, "w2")
    assert await desk.end(new, 1, text="stale") is None
    assert await desk.end(new, 2, text="fresh") is not None
    row = await desk.row(new.id, new.principal.tenant_id)
    assert (row["status"], row["attempt"], row["last_seq"]) == ("completed", 2, 7)
    assert await desk.end(new, 2, TurnStatus.FAILED) is None, "a terminal status is written once"
    output = await desk.output(new)
    assert [message["content"] for message in output] == ["fresh"]


async def test_an_end_is_billed_once(desk: Desk, make_turn: MakeTurn, admin: Any) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id)
    await desk.end(new, 1)
    await desk.end(new, 1)
    (bill,) = await admin.fetch("select * from usage")
    assert (bill["turn_id"], bill["output_tokens"], str(bill["total_cost"])) == (new.id, 2, "0.5")


# -- losing a worker


async def test_a_lost_turn_waits_again_at_the_head_of_its_line(
    desk: Desk, make_turn: MakeTurn
) -> None:
    first, second = await accept_many(desk, make_turn, 2)
    await desk.claim(first.id)
    row = await desk.reap(first.id, 1, ["w1"])
    assert (row["status"], row["crash_count"], row["attempt"]) == ("pending", 1, 1)
    assert await desk.claim(second.id) is None
    assert (await desk.claim(first.id, "w2"))["attempt"] == 2


async def test_a_living_worker_is_not_robbed(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id)
    assert await desk.reap(new.id, 1, ["another"]) is None
    assert await desk.database.fetch_many("list_lost_turns", ["another"], 10) == []
    assert await desk.reap(new.id, 0, ["w1"]) is None


async def test_a_lapsed_lease_is_lost(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id, lease_s=-1.0)
    (lost,) = await desk.database.fetch_many("list_lost_turns", [], 10)
    assert (lost["id"], lost["lapsed"]) == (new.id, True)
    assert (await desk.reap(new.id, 1, []))["status"] == "pending"


async def test_the_third_loss_is_poison(desk: Desk, make_turn: MakeTurn, admin: Any) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    row = None
    for attempt in (1, 2, 3):
        await desk.claim(new.id)
        row = await desk.reap(new.id, attempt, ["w1"])
    assert row is not None
    assert (row["status"], row["error_code"], row["crash_count"]) == ("failed", "poison", 3)
    assert row["attempt"] == 4, "nobody may write under the lost attempt any more"
    assert row["ended_at"] is not None


async def test_a_lost_turn_that_was_to_be_cancelled_is(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id)
    assert (await desk.request_cancel(new))["status"] == "running"
    row = await desk.reap(new.id, 1, ["w1"])
    assert (row["status"], row["error_code"], row["attempt"]) == ("cancelled", None, 2)


async def test_handing_back_does_not_count_as_a_crash(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    for attempt in range(1, 6):
        await desk.claim(new.id)
        assert await desk.hand_back(new.id, attempt, "another") == []
        assert len(await desk.hand_back(new.id, attempt)) == 1
    row = await desk.row(new.id, new.principal.tenant_id)
    assert (row["status"], row["crash_count"], row["attempt"]) == ("pending", 0, 5)


async def test_a_heartbeat_keeps_what_is_its_own(desk: Desk, make_turn: MakeTurn) -> None:
    mine, theirs = make_turn(key="a"), make_turn(key="b")
    for new, worker in ((mine, "w1"), (theirs, "w2")):
        await desk.accept(new)
        await desk.claim(new.id, worker)
    await desk.request_cancel(mine)
    rows = await desk.database.fetch_many(
        "renew_leases", "w1", [mine.id, theirs.id, mine.id], [1, 1, 2], 60.0
    )
    assert [(row["id"], row["cancel_requested"]) for row in rows] == [(mine.id, True)]


# -- ending without a worker


async def test_waiting_turns_expire_and_running_ones_do_not(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    runs, waits, fresh = make_turn(key="a"), make_turn(key="b"), make_turn(key="c")
    for new in (runs, waits, fresh):
        await desk.accept(new)
    await desk.claim(runs.id)
    await admin.execute(
        "update turns set expires_at = now() - interval '1 s' where id = any($1)",
        [runs.id, waits.id],
    )
    rows = await desk.database.fetch_many("expire_turns", 10)
    assert [(row["id"], row["status"], row["error_code"]) for row in rows] == [
        (waits.id, "expired", "queue_ttl")
    ]
    assert await desk.claim(waits.id) is None


async def test_a_waiting_turn_is_cancelled_by_the_request(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    row = await desk.request_cancel(new)
    assert (row["status"], row["attempt"], row["last_seq"]) == ("cancelled", 1, 1)
    assert await desk.request_cancel(new) is None
    assert await desk.claim(new.id) is None


async def test_a_forced_cancel_keeps_text_and_usage_and_fences(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id)
    assert await desk.force_cancel(new, 1, "w0 w1 ") is None, "nobody asked for it"
    await desk.request_cancel(new)
    assert await desk.force_cancel(new, 0, "w0 w1 ") is None
    row = await desk.force_cancel(new, 1, "w0 w1 ")
    assert (row["status"], row["attempt"], row["slot"]) == ("cancelled", 2, None)
    assert row["output_message_id"] == new.planned_output_message_id
    output = await desk.output(new)
    assert [message["content"] for message in output] == ["w0 w1 "]
    assert await admin.fetchval("select output_tokens from usage") == 2
    assert await desk.end(new, 1, text="late") is None
    thread = await admin.fetchrow("select * from threads where id = $1", new.thread_id)
    assert thread["last_message_preview"] == "w0 w1"


# -- idempotency keys


async def test_keys_are_kept_for_a_day_behind_the_end(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    active, recent, old = make_turn(key="a"), make_turn(key="b"), make_turn(key="c")
    for new in (active, recent, old):
        await desk.accept(new)
    for new, hours in ((recent, 23), (old, 25)):
        await desk.claim(new.id)
        await desk.end(new, 1)
        await admin.execute(
            "update turns set ended_at = now() - make_interval(hours => $2) where id = $1",
            new.id,
            hours,
        )
    await admin.execute("update idempotency_keys set created_at = now() - interval '90 days'")
    assert (await desk.database.fetch_one("purge_idempotency_keys", 86_400.0, 100))["purged"] == 1  # type: ignore[index]
    kept = await admin.fetch("select turn_id from idempotency_keys")
    assert {row["turn_id"] for row in kept} == {active.id, recent.id}


# -- history


async def test_a_turn_sees_earlier_turns_its_own_input_and_nothing_later(
    desk: Desk, make_turn: MakeTurn, thread: UUID
) -> None:
    # Two keys on one thread: the second turn ends before the first one does.
    one, two, three = (
        make_turn("in 1", key="a"),
        make_turn("in 2", key="b"),
        make_turn("in 3", key="b"),
    )
    seqs = [(await desk.accept(new))["accept_seq"] for new in (one, two, three)]
    await desk.claim(two.id)
    await desk.end(two, 1, text="out 2")

    async def history(number: int, most: int = 100, most_bytes: int = 1000) -> list[str]:
        new = (one, two, three)[number]
        rows = await desk.database.fetch_many(
            "list_histories",
            *columns([(new.id, new.principal.tenant_id, thread, seqs[number])]),
            most,
            most_bytes,
        )
        return [row["content"] for row in rows]

    assert await history(0) == []
    assert await history(1) == ["in 1"]
    assert await history(2) == ["in 1", "in 2", "out 2"]
    await desk.claim(one.id)
    await desk.end(one, 1, text="out 1")
    assert await history(2) == ["in 1", "out 1", "in 2", "out 2"]
    assert await history(2, most=2) == ["in 2", "out 2"]
    assert await history(2, most_bytes=6) == ["in 2", "out 2"]


# -- lists


async def test_stalled_heads_are_those_that_could_run(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "wide", 2)
    busy, _ = await accept_many(desk, make_turn, 2, key="busy")
    head, _ = await accept_many(desk, make_turn, 2, key="idle")
    one, two, _ = await accept_many(desk, make_turn, 3, key="wide")
    await desk.claim(busy.id)
    await desk.claim(one.id)
    rows = await desk.database.fetch_many("list_stalled_heads", 0, 100, -1.0)
    assert [row["id"] for row in rows] == [head.id, two.id]
    rows = await desk.database.fetch_many("list_claimable_heads", 100)
    assert [row["id"] for row in rows] == [head.id, two.id]
    (nothing,) = await desk.database.fetch_many("list_stalled_heads", 0, 100, 60.0)
    assert (nothing["id"], nothing["looked_at"]) == (None, 5)


async def test_stalled_heads_are_looked_for_a_page_at_a_time(
    desk: Desk, make_turn: MakeTurn
) -> None:
    turns = [(await accept_many(desk, make_turn, 1, key=f"k{n}"))[0] for n in range(5)]
    found, after = [], 0
    for _ in range(3):
        rows = await desk.database.fetch_many("list_stalled_heads", after, 2, -1.0)
        found += [row["id"] for row in rows if row["id"] is not None]
        assert rows[0]["looked_at"] == len(rows)
        after = rows[0]["looked_to"]
    assert found == [turn.id for turn in turns]
    (past,) = await desk.database.fetch_many("list_stalled_heads", after, 2, -1.0)
    assert (past["id"], past["looked_at"], past["looked_to"]) == (None, 0, None)


async def test_an_attempt_stays_valid_for_its_log_when_it_has_ended_the_turn_itself(
    desk: Desk, make_turn: MakeTurn
) -> None:
    ended, cancelled = await accept_many(desk, make_turn, 2)

    async def valid(turn: NewTurn, attempt: int = 1) -> bool:
        return bool(await desk.database.fetch_many("validate_attempts", [turn.id], [attempt]))

    await desk.claim(ended.id)
    assert await valid(ended)
    await desk.end(ended, 1, text="said")
    assert await valid(ended)
    assert not await valid(ended, 2)
    await desk.claim(cancelled.id)
    await desk.request_cancel(cancelled)
    await desk.force_cancel(cancelled, 1, "cut")
    assert not await valid(cancelled), "somebody else has ended it"


# -- approvals


async def park(desk: Desk, new: NewTurn, attempt: int, call: str = "call") -> Any:
    asked = [{"tool_call_id": call, "tool_name": "pay", "args": {}}]
    return await desk.database.fetch_one(
        "park_turn", new.id, new.principal.tenant_id, attempt, {"outputTokens": 2}, 3, [], None,
        asked, 100.0, new.thread_id,
    )  # fmt: skip


async def test_only_the_present_attempt_parks_a_turn(desk: Desk, make_turn: MakeTurn) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    assert await park(desk, new, 0) is None, "it does not run"
    await desk.claim(new.id)
    await desk.reap(new.id, 1, ["w1"])
    await desk.claim(new.id, "w2")
    assert await park(desk, new, 1) is None, "a stale attempt"
    row = await park(desk, new, 2)
    assert (row["status"], row["attempt"], row["slot"]) == ("awaiting_approval", 2, 1)
    assert await park(desk, new, 2, "another") is None
    assert await desk.end(new, 2) is None, "it runs no more"
    assert await desk.hand_back(new.id, 2, "w2") == []
    assert await desk.reap(new.id, 2, ["w2"]) is None


async def test_a_parked_turn_keeps_its_slot(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "wide", 2)
    turns = await accept_many(desk, make_turn, 4, key="wide")
    await desk.claim(turns[0].id)
    await park(desk, turns[0], 1)
    assert (await desk.claim(turns[1].id))["attempt"] == 1
    row = await desk.row(turns[1].id, principal.tenant_id)
    assert row["slot"] == 2
    assert await desk.claim(turns[2].id) is None, "both slots are held"
    (told,) = await desk.database.fetch_many("explain_refused_claims", [turns[2].id])
    assert told["running_ids"] == [turns[0].id, turns[1].id], "so that Redis knows"
    assert await desk.database.fetch_many("list_claimable_heads", 10) == []
    who = desk.database.for_tenant(principal)
    assert await who.fetch_one("resume_turn", turns[0].id, principal.tenant_id) is not None
    assert await desk.claim(turns[2].id) is None, "who was parked is first"
    claimed = await desk.claim(turns[0].id)
    assert (claimed["attempt"], claimed["parked_count"]) == (2, 1)
    assert claimed["earlier_usage"] == {"outputTokens": 2}


async def test_a_parked_turn_is_not_due_before_its_time(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    (new,) = await accept_many(desk, make_turn, 1)
    await desk.claim(new.id)
    await park(desk, new, 1)
    for query in ("deny_expired_approvals", "cancel_expired_approvals"):
        assert await desk.database.fetch_many(query, 10, "why") == []
    await admin.execute("update turns set expires_at = now()")
    (row,) = await desk.database.fetch_many("deny_expired_approvals", 10, "why")
    assert (row["id"], row["status"], row["slot"]) == (new.id, "pending", None)
    assert await desk.database.fetch_many("deny_expired_approvals", 10, "why") == []
    assert (await desk.claim(new.id))["attempt"] == 2, "its queue time is no matter any more"
