"""F31–F39: Postgres that crashes, restarts, freezes, refuses, locks, or swallows an answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path

import asyncpg
import psutil

from tests.acceptance.product import Api, Worker
from tests.chaos.arena import Arena, Evidence, Fault
from tests.chaos.workload import PROMPT


async def _crash(arena: Arena) -> Evidence:
    rounds = arena.times(2, 10)
    away = []
    for _ in range(rounds):
        await arena.workload.until_held()
        began = time.monotonic()
        await arena.deployment.kill_postgres()
        arena.deployment.start_postgres()
        away.append(time.monotonic() - began)
        await arena.workload.until_flowing()
    return Evidence(
        rounds,
        f"Postgres crashed {rounds} times and recovered from its log",
        {"away max s": max(away)},
    )


async def _away_for_long(arena: Arena) -> Evidence:
    deployment, workload = arena.deployment, arena.workload
    await workload.until_held()
    refused = workload.refusals
    await deployment.kill_postgres()
    await asyncio.sleep(arena.seconds(8, 60))
    deployment.start_postgres()
    refused = workload.refusals - refused
    await workload.until_flowing()
    return Evidence(refused, f"{refused} requests refused without Postgres", {"refused": refused})


async def _all_away(arena: Arena) -> Evidence:
    """Postgres and Redis are away together, and come back in the order that is worse."""
    deployment, workload = arena.deployment, arena.workload
    await workload.until_held()
    refused = workload.refusals
    await deployment.kill_postgres()
    await deployment.stop_redis()
    await asyncio.sleep(arena.seconds(8, 60))
    deployment.start_redis()
    await asyncio.sleep(1)
    deployment.start_postgres()
    refused = workload.refusals - refused
    await workload.until_flowing()
    return Evidence(refused, f"{refused} requests refused without Postgres and Redis")


async def _end_backends(arena: Arena) -> Evidence:
    rounds = arena.times(4, 30)
    ended = 0
    for _ in range(rounds):
        async with arena.deployment.admin() as admin:
            ended += await admin.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name = 'turnkeep'"
            )
        await asyncio.sleep(2)
    return Evidence(ended, f"{ended} connections ended by Postgres")


async def _freeze(arena: Arena) -> Evidence:
    deployment = arena.deployment
    family = psutil.Process(deployment.postgres_pid)
    pids = [deployment.postgres_pid, *(child.pid for child in family.children(recursive=True))]
    with deployment.stopped(*pids):
        await asyncio.sleep(arena.seconds(8, 60))
    await arena.workload.until_flowing()
    return Evidence(len(pids), f"all {len(pids)} processes of Postgres frozen")


async def _read_only(arena: Arena) -> Evidence:
    refused = arena.workload.refusals
    async with arena.deployment.admin() as admin:
        await admin.execute("alter system set default_transaction_read_only = on")
        await admin.execute("select pg_reload_conf()")
        try:
            await asyncio.sleep(arena.seconds(4, 15))
        finally:
            await admin.execute("set transaction_read_only = off")
            await admin.execute("set default_transaction_read_only = off")
            await admin.execute("alter system reset default_transaction_read_only")
            await admin.execute("select pg_reload_conf()")
    refused = arena.workload.refusals - refused
    await arena.workload.until_flowing()
    return Evidence(refused, f"{refused} requests refused: Postgres only reads")


async def _take_all_connections(arena: Arena) -> Evidence:
    """Others hold every connection there is, and ours are ended."""
    hogs = []
    try:
        while True:
            async with asyncio.timeout(5):
                hogs.append(await asyncpg.connect(arena.deployment.database_url))
            if len(hogs) == 1:
                await hogs[0].execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'turnkeep'"
                )
    except (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError, TimeoutError, OSError):
        await asyncio.sleep(arena.seconds(4, 15))
    finally:
        for hog in hogs:
            hog.terminate()
    await arena.workload.until_flowing()
    return Evidence(len(hogs), f"{len(hogs)} connections held by others")


async def _lock_turns(arena: Arena) -> Evidence:
    held_s = arena.seconds(5, 10)
    async with arena.deployment.admin() as admin, admin.transaction():
        await admin.execute("set local lock_timeout = '20s'")
        await admin.execute("lock table turns in access exclusive mode")
        await asyncio.sleep(held_s)
        waiting = await admin.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        )
    await arena.workload.until_flowing()
    return Evidence(1, f"turns locked for {held_s:.0f} s, {waiting} statements waiting at its end")


_MARKS = {
    "accept": PROMPT.encode(),
    "end": b'"raw_data"',
    "claim or heartbeat": b"-",  # of the worker's name, and of nothing smaller
}
"""What the request of each kind contains, as it goes over the wire."""


async def _swallow_answers(arena: Arena) -> Evidence:
    """The statement happens, its answer is lost, and the connection with it."""
    swallowed = dict.fromkeys(_MARKS, 0)
    for _ in range(arena.times(6, 40)):
        for kind, mark in _MARKS.items():
            slots = list(arena.deployment.links(Api if kind == "accept" else Worker))
            before = [slot.postgres.dropped_replies for slot in slots]
            for slot in slots:
                slot.postgres.drop_reply_to = mark
            await asyncio.sleep(0.4)
            for slot in slots:
                slot.postgres.drop_reply_to = None
            dropped = sum(slot.postgres.dropped_replies for slot in slots) - sum(before)
            swallowed[kind] += dropped
    await arena.workload.until_flowing()
    kinds = ", ".join(f"{count} of {kind}" for kind, count in swallowed.items())
    return Evidence(min(swallowed.values()), f"answers swallowed: {kinds}", dict(swallowed))


async def _fill_disk(arena: Arena) -> Evidence:
    """First room for some blocks is left, then none: data cannot grow, then the log cannot."""
    deployment = arena.deployment
    filler = deployment.server.data_dir / "filler"
    refused = arena.workload.refusals
    try:
        for spare_bytes in (2_000_000, 0):
            _fill(filler, spare_bytes)
            await asyncio.sleep(arena.seconds(6, 20))
    finally:
        filler.unlink(missing_ok=True)
    refused = arena.workload.refusals - refused
    has_crashed = deployment.server.process is None or deployment.server.process.poll() is not None
    if has_crashed:  # it may panic when its log has no room
        deployment.start_postgres()
    await arena.workload.until_flowing(60)
    end = "ended and was started again" if has_crashed else "stayed"
    return Evidence(refused, f"no room on the disk: {refused} requests refused, Postgres {end}")


def _fill(filler: Path, spare_bytes: int) -> None:
    with filler.open("ab") as file:
        usage = shutil.disk_usage(filler.parent)
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), file.tell(), max(1, usage.free - spare_bytes))


POSTGRES_FAULTS = (
    Fault("F31", "Postgres crashes under load", "postgres", _crash, expects_outage=True),
    Fault("F31b", "Postgres is away for long", "postgres", _away_for_long, expects_outage=True),
    Fault("F31c", "Postgres and Redis are away", "postgres", _all_away, expects_outage=True),
    Fault("F33", "Postgres ends all connections", "postgres", _end_backends, expects_outage=True),
    Fault("F34", "Postgres freezes", "postgres", _freeze, expects_outage=True),
    Fault("F35", "Postgres is read-only", "postgres", _read_only, expects_outage=True),
    Fault(
        "F36",
        "the disk is full",
        "postgres",
        _fill_disk,
        expects_outage=True,
        needs_small_disk=True,
    ),
    Fault(
        "F37",
        "Postgres has no connection left",
        "postgres",
        _take_all_connections,
        expects_outage=True,
    ),
    Fault("F38", "the table of turns is locked", "postgres", _lock_turns, expects_outage=True),
    Fault("F39", "answers of Postgres are lost", "postgres", _swallow_answers, expects_outage=True),
)
