"""Statements that do a whole batch give each of its turns what it would have got alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from shared.postgres.batches import as_elements, columns
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.service.accept import accept_arguments
from shared.turn.model import NewTurn, Principal
from shared.turn.state import TurnStatus
from tests.fixtures.chance import seeded
from tests.fixtures.system import MakeTurn, add_principal, add_thread
from tests.integration.postgres.desk import Desk, end_arguments


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


async def accept_together(desk: Desk, turns: list[NewTurn]) -> list[Any]:
    """Rows by the order of `turns`, None where refused, of one execution."""
    runs = [as_elements(accept_arguments(new, 100.0)) for new in turns]
    rows = await desk.database.fetch_many("accept_turns", *columns(runs))
    found = {row["id"]: row for row in rows}
    return [found.get(new.id) for new in turns]


async def claim_together(desk: Desk, turns: list[NewTurn], worker: str = "w1") -> dict[UUID, Any]:
    rows = await desk.database.fetch_many("claim_turns", [t.id for t in turns], worker, 60.0)
    return {row["id"]: row for row in rows}


async def slots_of(admin: Any, turns: list[NewTurn]) -> list[int | None]:
    rows = await admin.fetch("select id, slot from turns")
    slot = {row["id"]: row["slot"] for row in rows}
    return [slot[new.id] for new in turns]


async def limit_key(admin: Any, principal: Principal, key: str, limit: int) -> None:
    await admin.execute(
        "insert into concurrency_limits values ($1, $2, $3)"
        " on conflict (tenant_id, concurrency_key) do update set max_running = $3",
        principal.tenant_id,
        key,
        limit,
    )


# -- accept


async def test_turns_of_a_batch_stand_in_the_order_they_were_given(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    other = await add_thread(admin, principal)
    await desk.accept(make_turn(thread=other))
    batch = [make_turn(f"t{n}", thread=other) if n % 3 else make_turn(f"t{n}") for n in range(12)]
    # Ids in the wrong order: nothing may depend on them.
    for one, other_one in zip(batch[::2], batch[1::2], strict=True):
        batch[batch.index(one)], batch[batch.index(other_one)] = (
            replace(one, id=other_one.id), replace(other_one, id=one.id),
        )  # fmt: skip
    rows = await accept_together(desk, batch)
    seqs = [row["accept_seq"] for row in rows]
    assert seqs == sorted(seqs)
    on_first = [
        row["position"] for row, new in zip(rows, batch, strict=True) if new.thread_id != other
    ]
    on_other = [
        row["position"] for row, new in zip(rows, batch, strict=True) if new.thread_id == other
    ]
    assert on_first == list(range(4))
    assert on_other == list(range(1, 9)), "one was there before"
    messages = await admin.fetch(
        "select content, turn_seq from messages where thread_id = $1 order by seq", other
    )
    assert [m["content"] for m in messages][1:] == [n.text for n in batch if n.thread_id == other]
    threads = {
        row["id"]: row
        for row in await admin.fetch(
            "select id, title, last_turn_id, last_message_preview from threads"
        )
    }
    first = threads[batch[0].thread_id]
    last = [new for new in batch if new.thread_id != other][-1]
    assert (first["title"], first["last_turn_id"]) == ("t0", last.id)
    assert first["last_message_preview"] == last.text


async def test_one_idempotency_key_twice_in_a_batch_is_one_turn(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    other = await add_thread(admin, principal)
    batch = [
        make_turn("one", idempotency_key="k"),
        make_turn("two", idempotency_key="k"),
        make_turn("three", thread=other, idempotency_key="k"),
        make_turn("four"),
    ]
    rows = await accept_together(desk, batch)
    assert [row and row["id"] for row in rows] == [batch[0].id, None, None, batch[3].id]
    assert [row["position"] for row in (rows[0], rows[3])] == [0, 1]
    assert await accept_together(desk, [make_turn("five", idempotency_key="k")]) == [None]
    assert await admin.fetchval("select count(*) from messages") == 2
    assert await admin.fetchval("select last_turn_id from threads where id = $1", other) is None


async def test_nobody_gets_into_a_foreign_thread_beside_its_owner(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    stranger = await add_principal(admin)
    colleague = Principal(principal.tenant_id, stranger.user_id, principal.key_id)
    batch = [make_turn(principal=who) for who in (stranger, principal, colleague, principal)]
    rows = await accept_together(desk, batch)
    assert [row is not None for row in rows] == [False, True, False, True]
    assert await admin.fetchval("select count(*) from idempotency_keys") == 2


async def test_rival_processes_accept_and_end_without_deadlocks(
    database_url: str, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    threads = [await add_thread(admin, principal) for _ in range(6)]
    keys = [f"key {number}" for number in range(200)]
    made: list[UUID] = []

    async def live(database: Database, seed: int) -> None:
        chance = seeded(seed)
        accepts, ends = GroupCommit(database, "accept_turns"), GroupCommit(database, "end_turns")

        async def turn(number: int) -> None:
            new = make_turn(
                thread=chance.choice(threads),
                key=f"{seed} {number}",
                idempotency_key=chance.choice(keys),
            )
            if await accepts.run(*accept_arguments(new, 100.0)) is None:
                return
            made.append(new.id)
            (row,) = await database.fetch_many("claim_turns", [new.id], f"w{seed}", 60.0)
            await database.fetch_many("renew_leases", f"w{seed}", made, [1] * len(made), 60.0)
            ended = await ends.run(*end_arguments(new, row["attempt"], text="said"))
            assert ended is not None

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(turn(number))

    async with (
        Database(database_url, size=6) as one,
        Database(database_url, size=6) as two,
        asyncio.timeout(25),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(live(one, 1))
        group.create_task(live(two, 2))
    deadlocks = await admin.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert deadlocks == 0
    assert len(made) == await admin.fetchval("select count(*) from usage")
    assert len(made) == await admin.fetchval("select count(*) from idempotency_keys") > 60


# -- claim


async def test_a_batch_claims_neighbours_at_the_head_of_a_line(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "wide", 3)
    turns = [make_turn(key="wide") for _ in range(6)]
    turns.sort(key=lambda new: new.id, reverse=True)  # the line is not in the order of ids
    await accept_together(desk, turns)
    assert await claim_together(desk, turns[1:4]) == {}, "the head was not asked for"
    assert set(await claim_together(desk, [turns[0], turns[1], turns[3]])) == {
        turns[0].id, turns[1].id,
    }  # fmt: skip
    assert await slots_of(admin, turns[:4]) == [1, 2, None, None]
    await desk.end(turns[0], 1)
    assert set(await claim_together(desk, turns[2:])) == {turns[2].id, turns[3].id}
    assert await slots_of(admin, turns[1:5]) == [2, 1, 3, None]


async def test_a_batch_takes_one_of_each_narrow_line(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    turns = [make_turn(key=key) for key in "abcabcabc"]
    await accept_together(desk, turns)
    assert set(await claim_together(desk, turns)) == {new.id for new in turns[:3]}
    assert await claim_together(desk, turns) == {}
    assert await slots_of(admin, turns) == [1, 1, 1] + [None] * 6


async def test_each_turn_of_a_batch_has_the_limit_it_was_accepted_with(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    turns = []
    for limit in (3, 1, 3):
        await limit_key(admin, principal, "k", limit)
        turns += await accept_one(desk, make_turn(key="k"))
    assert set(await claim_together(desk, turns)) == {turns[0].id}, "the second wants slot 1"
    await desk.end(turns[0], 1)
    assert set(await claim_together(desk, turns[1:])) == {turns[1].id, turns[2].id}


async def accept_one(desk: Desk, new: NewTurn) -> list[NewTurn]:
    assert await desk.accept(new) is not None
    return [new]


async def test_an_overdue_head_holds_up_the_rest_of_its_batch(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "k", 3)
    late, waits = make_turn(key="k"), make_turn(key="k")
    await desk.accept(late, queue_ttl_s=0.0)
    await desk.accept(waits)
    assert await claim_together(desk, [late, waits]) == {}
    await desk.database.fetch_many("expire_turns", 10)
    assert set(await claim_together(desk, [late, waits])) == {waits.id}


async def test_workers_that_want_the_same_turns_share_them_without_deadlocks(
    database_url: str, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await limit_key(admin, principal, "k0", 3)
    claims: list[UUID] = []
    async with Database(database_url, size=4) as one, Database(database_url, size=4) as two:
        desk = Desk(one)
        turns = [make_turn(key=f"k{number % 40}") for number in range(400)]
        await accept_together(desk, turns)
        by_id = {new.id: new for new in turns}

        async def work(database: Database, name: str) -> None:
            ends = GroupCommit(database, "end_turns")
            while len(claims) < len(turns):
                heads = await database.fetch_many("list_claimable_heads", 32)
                ids = [row["id"] for row in heads]
                rows = await database.fetch_many("claim_turns", ids, name, 60.0)
                claims.extend(row["id"] for row in rows)
                async with asyncio.TaskGroup() as group:
                    for row in rows:
                        arguments = end_arguments(by_id[row["id"]], row["attempt"])
                        group.create_task(ends.run(*arguments))

        async with asyncio.timeout(25), asyncio.TaskGroup() as group:
            for number, database in enumerate((one, two, one, two)):
                group.create_task(work(database, f"w{number}"))
    assert len(claims) == len(set(claims)) == len(turns)
    assert await admin.fetchval("select count(*) from usage") == len(turns)
    assert (
        await admin.fetchval(
            "select deadlocks from pg_stat_database where datname = current_database()"
        )
        == 0
    )


async def test_a_claim_brings_the_input_and_says_whether_there_is_a_past(
    desk: Desk, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    fresh = await add_thread(admin, principal)
    one, two, alone = make_turn("one"), make_turn("two"), make_turn("alone", thread=fresh)
    later = make_turn("later", thread=fresh, key="another")
    await accept_together(desk, [one, two, alone, later])
    claimed = await claim_together(desk, [one, alone, later])
    told = {row["prompt"]: row["has_history"] for row in claimed.values()}
    assert told == {"one": False, "alone": False, "later": True}
    await desk.end(one, 1)
    assert (await desk.claim(two.id))["has_history"]
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, role, content, format)"
        " values (gen_random_uuid(), $1, $2, 'user', 'put in', 'text')",
        principal.tenant_id,
        fresh,
    )
    await desk.hand_back(alone.id, 1)
    assert (await desk.claim(alone.id))["has_history"]
    rows = await desk.database.fetch_many(
        "list_histories", [alone.id], [principal.tenant_id], [fresh], [1000], 10, 1000
    )
    # What no turn has said stands behind the turns that had been accepted by then.
    assert [row["content"] for row in rows] == ["alone", "later", "put in"]


# -- end


async def test_one_fenced_turn_does_not_spoil_the_end_of_others(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    turns = [make_turn(key=key) for key in "abcd"]
    await accept_together(desk, turns)
    await claim_together(desk, turns)
    await desk.reap(turns[1].id, 1, ["w1"])
    await desk.claim(turns[1].id, "w2")
    runs = [end_arguments(new, 1, text=f"answer {n}") for n, new in enumerate(turns)]
    runs.append(end_arguments(turns[1], 3, TurnStatus.FAILED))
    rows = await desk.database.fetch_many("end_turns", *columns([as_elements(r) for r in runs]))
    assert {row["id"] for row in rows} == {turns[n].id for n in (0, 2, 3)}
    assert "messages" not in rows[0]
    assert await admin.fetchval("select count(*) from usage") == 3
    answers = await admin.fetch(
        "select content from messages where role = 'assistant' order by seq"
    )
    assert [row["content"] for row in answers] == ["answer 0", "answer 2", "answer 3"]
    assert await desk.end(turns[1], 2, text="answer 1") is not None


async def test_a_thread_shows_the_latest_turn_of_a_batch_that_said_something(
    desk: Desk, make_turn: MakeTurn, admin: Any
) -> None:
    turns = [make_turn(key=key) for key in "abc"]
    await accept_together(desk, turns)
    await claim_together(desk, turns)
    before = await admin.fetchrow("select * from threads where id = $1", turns[0].thread_id)
    runs = [
        end_arguments(new, 1, text=text) for new, text in zip(turns, ["x", "y", ""], strict=True)
    ]
    rows = await desk.database.fetch_many("end_turns", *columns([as_elements(r) for r in runs]))
    assert len(rows) == 3
    after = await admin.fetchrow("select * from threads where id = $1", turns[0].thread_id)
    assert after["last_message_preview"] == "y"
    assert after["last_message_at"] > before["last_message_at"]
    assert after["last_turn_id"] == turns[2].id
