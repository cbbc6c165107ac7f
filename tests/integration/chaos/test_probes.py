"""The probes see what really happened, and a good run is clean: on a real Postgres and Valkey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.redis.connection import RedisConnection
from shared.turn.events import Cursor
from shared.turn.model import Principal, Turn
from tests.chaos import history as h
from tests.chaos import probes
from tests.chaos.checker import check
from tests.chaos.invariants.facts import Facts, parse_cursor
from tests.fixtures.system import Api, MakeTurn, StartWorker
from tests.fixtures.waiting import wait_until


def accept_of(turn: Turn, began: int, at: int) -> h.Accept:
    return h.Accept(
        began=began,
        at=at,
        outcome="ok",
        tenant=str(turn.tenant_id),
        user=str(turn.user_id),
        turn=str(turn.id),
        concurrency_key=turn.concurrency_key,
        http=202,
        status=turn.status,
    )


async def read_all(admin: Any, clock: probes.ClockMap) -> list[h.Transition]:
    return [change async for change in probes.read_transitions(admin, clock)]


async def clock_of(admin: Any) -> probes.ClockMap:
    sample = await probes.sample_clock(admin)
    return probes.ClockMap(sample, sample)


async def test_a_run_with_a_lost_worker_is_seen_and_is_clean(
    api: Api,
    start_worker: StartWorker,
    make_turn: MakeTurn,
    database_url: str,
    redis_url: str,
    redis_prefix: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "history"
    with h.History(path) as history:
        async with (
            probes.observe(database_url, history),
            probes.AppendWatcher(redis_url, history, prefix=redis_prefix) as watcher,
        ):
            first = await start_worker(worker_concurrency=10)
            turns = []
            for number in range(6):
                began = h.now()
                turn = await api.submit(
                    make_turn(deltas=30, intervalMs=10, key=f"line-{number % 2}")
                )
                history.append(accept_of(turn, began, h.now()))
                turns.append(turn)
            await wait_until(lambda: watcher.noted > 4, "turns speak")
            history.append(h.FaultBegun(at=h.now(), fault="1", name="F01", layer="worker"))
            await first.kill()
            await start_worker()
            await api.ends_of(turns)
            history.append(h.FaultHealed(at=h.now(), fault="1"))
    report = check(h.read(path))
    assert report.is_ok, str(report)
    assert not {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I16"} & set(report.not_exercised)
    facts = Facts(h.read(path))
    changes = facts.transitions[str(turns[0].id)]
    assert [(c.old, c.new, c.attempt) for c in changes] == [
        ("", "pending", 0),
        ("pending", "running", 1),
        ("running", "pending", 1),
        ("pending", "running", 2),
        ("running", "completed", 2),
    ]
    assert [c.crash_count for c in changes] == [0, 0, 1, 1, 1]
    assert changes[1].worker == changes[2].old_worker != changes[3].worker
    began_at, ended_at = facts.of(h.Accept)[0].began, facts.of(h.FaultHealed)[0].at
    assert began_at - 5_000_000 < changes[0].at < changes[-1].at < ended_at + 5_000_000
    assert {row.text for row in facts.of(h.FinalState)} == {"".join(f"w{n} " for n in range(30))}
    assert {append.attempt for append in facts.of(h.Append)} == {1, 2}


async def test_only_commits_are_recorded(api: Api, make_turn: MakeTurn, admin: Any) -> None:
    await probes.install_trigger(admin)
    turn = await api.submit(make_turn())
    change = "update turns set status = 'cancelled', ended_at = now() where id = $1"
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute(change, turn.id)
    assert len(await read_all(admin, await clock_of(admin))) == 2
    await transaction.rollback()
    assert [c.new for c in await read_all(admin, await clock_of(admin))] == ["pending"]
    await admin.execute("update turns set updated_at = now(), lease_until = null")
    assert len(await read_all(admin, await clock_of(admin))) == 1


async def test_what_a_tenant_changes_is_recorded(
    api: Api, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    await probes.install_trigger(admin)
    turn = await api.submit(make_turn())
    await api.cancels.cancel(principal, turn.id, None)
    changes = await read_all(admin, await clock_of(admin))
    assert [change.new for change in changes] == ["pending", "cancelled"]


async def test_the_trigger_comes_twice_and_goes(api: Api, make_turn: MakeTurn, admin: Any) -> None:
    await probes.install_trigger(admin)
    await probes.install_trigger(admin)
    await api.submit(make_turn())
    assert len(await read_all(admin, await clock_of(admin))) == 1
    await probes.remove_trigger(admin)
    await api.submit(make_turn())
    with pytest.raises(asyncpg.UndefinedTableError):
        await read_all(admin, await clock_of(admin))


async def test_transitions_are_read_in_pages(
    api: Api, make_turn: MakeTurn, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_PAGE", 3)
    await probes.install_trigger(admin)
    for _ in range(7):
        await api.submit(make_turn())
    changes = await read_all(admin, await clock_of(admin))
    assert len({change.turn for change in changes}) == 7
    assert [c.order for c in changes] == sorted(c.order for c in changes)
    rows = [row async for row in probes.scan_turns(admin)]
    assert len(rows) == 7 + 1
    assert rows[-1] == h.Scan(at=rows[-1].at, turns=7)
    late = changes[4].order
    clock = await clock_of(admin)
    rest = [c async for c in probes.read_transitions(admin, clock, after=late)]
    assert rest == [c for c in await read_all(admin, clock) if c.order > late]


async def test_clocks_are_put_on_each_other(admin: Any) -> None:
    first = await probes.sample_clock(admin)
    await asyncio.sleep(0.2)
    last = await probes.sample_clock(admin)
    clock = probes.ClockMap(first, last)
    assert clock.to_monotonic(first.server_ns) == first.at
    assert abs(clock.to_monotonic(last.server_ns) - last.at) <= 1
    middle = (first.server_ns + last.server_ns) // 2
    assert first.at < clock.to_monotonic(middle) < last.at
    assert abs(clock.drift_ns) < 20_000_000
    assert first.uncertainty_ns < 100_000_000


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        ("delete from turns", "I1"),
        ("update turns set status = 'expired'", "I2"),
        ("update turns set attempt = attempt - 1", "I2"),
        ("delete from usage", "I16"),
        (
            "insert into messages (id, tenant_id, thread_id, turn_id, turn_seq, role, content,"
            " format, created_at) select gen_random_uuid(), tenant_id, thread_id, turn_id,"
            " turn_seq, role, content, 'text', now() from messages where role = 'assistant'",
            "I16",
        ),
        ("update messages set content = 'else' where role = 'assistant'", "I10"),
    ],
)
async def test_damage_to_the_rows_is_found(
    damage: str,
    invariant: str,
    api: Api,
    start_worker: StartWorker,
    make_turn: MakeTurn,
    admin: Any,
    database_url: str,
    tmp_path: Path,
) -> None:
    with h.History(tmp_path / "history") as history:
        async with probes.observe(database_url, history):
            await start_worker()
            began = h.now()
            turn = await api.submit(make_turn(deltas=3))
            history.append(accept_of(turn, began, h.now()))
            await api.end_of(turn)
            history.extend(a_reader(turn))
            await admin.execute(damage)
    assert invariant in check(h.read(tmp_path / "history")).violated


def a_reader(turn: Turn) -> list[h.Event]:
    at = h.now()
    common: dict[str, Any] = {"at": at, "connection": "1", "attempt": 1}
    return [
        h.Connect(
            began=at, at=at, outcome="ok", tenant=str(turn.tenant_id), chain="1", connection="1",
            turn=str(turn.id), http=200,
        ),
        h.Frame(type="turn.started", seq=1, **common),
        *(h.Frame(type="message.delta", seq=n + 2, text=f"w{n} ", **common) for n in range(3)),
        h.Frame(type="turn.ended", seq=5, status="completed", **common),
    ]  # fmt: skip


async def test_what_is_left_is_found(
    admin: Any, database_url: str, redis: RedisConnection, redis_prefix: str
) -> None:
    async def find() -> dict[str, float]:
        found = await probes.find_residue(
            admin, redis, {}, probes.Baseline({}), redis_prefix=redis_prefix
        )
        return {residue.what: residue.found for residue in found}

    assert set((await find()).values()) == {0}
    await redis.call("SET", f"{redis_prefix}:immortal", "1")
    await redis.call("SET", f"{redis_prefix}:mortal", "1", "EX", 60)
    await redis.call("SET", f"{redis_prefix}:jobs", "1")
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("begin")
        await wait_until(lambda: _idles(find), "a session idles in a transaction")
        assert (await find())["Redis keys without a TTL"] == 1
    finally:
        await redis.call("DEL", f"{redis_prefix}:immortal")
        await other.close()


async def _idles(find: Callable[[], Any]) -> bool:
    return bool((await find())["sessions idle in a transaction"] == 1)


async def test_a_lapsed_lease_is_overdue(
    api: Api, make_turn: MakeTurn, admin: Any, principal: Principal
) -> None:
    turn = await api.submit(make_turn())
    claim = (
        "update turns set status = 'running', slot = 1, worker_id = 'host-1-a', attempt = 1,"
        " lease_until = now() + make_interval(secs => $1)"
    )
    await admin.execute(claim, 60.0)
    assert await probes.find_overdue(admin) == []
    await admin.execute("update turns set lease_until = now() - interval '9 s'")
    (overdue,) = await probes.find_overdue(admin)
    assert overdue.turn == str(turn.id)
    assert overdue.lapsed_s == pytest.approx(9, abs=1)


async def test_redis_and_processes_are_sampled(redis: RedisConnection) -> None:
    (used,) = await probes.sample_redis(redis)
    assert used.value > 100_000
    names = {sample.figure: sample.value for sample in probes.sample_process("me", os.getpid())}
    assert names["rss_bytes"] > 1_000_000
    assert names["open_files"] > 2
    assert probes.sample_process("nobody", 2_000_000_000) == []


def test_cursor_parsing_is_the_products() -> None:
    assert parse_cursor(str(Cursor(3, 17))) == (3, 17)
