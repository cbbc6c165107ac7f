"""F13, F14: turns that end their worker, and processes that die at a chosen place."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest

from tests.acceptance.client import Client
from tests.acceptance.product import Api, Process
from tests.acceptance.talk import CHAT, await_end, get_turn, submit
from tests.chaos.arena import Arena, Evidence, Fault
from tests.chaos.crash_points import CRASH_POINTS, CrashPoint
from tests.fixtures.waiting import wait_until

PATIENCE_S = 25.0


async def _crash_everywhere(arena: Arena) -> Evidence:
    fired = []
    missed = []
    for name, point in CRASH_POINTS.items():
        if await _crash_at(arena, name, point):
            fired.append(name)
        else:
            missed.append(name)
    seen = f"processes died at {len(fired)} of {len(CRASH_POINTS)} places"
    figures = {"crash points": f"{len(fired)}/{len(CRASH_POINTS)}"}
    return Evidence(0 if missed else len(fired), "; not at ".join([seen, *missed]), figures)


async def _crash_at(arena: Arena, name: str, point: CrashPoint) -> bool:
    """Whether a process got to the point and died there."""
    deployment = arena.deployment
    trap = ["-m", "tests.chaos.crash_points", point.process, name]
    doomed: Process
    if point.process == "api":
        doomed = await _replace_api(arena, trap)
    else:
        drain = {"TURNKEEP_DRAIN_S": "0"} if point.stimulus == "drain" else {}
        doomed = deployment.start_worker(drain, arguments=trap)
        # Alone, so that what is to be done is done by the one that will die of it.
        for worker in list(deployment.workers):
            if worker is not doomed:
                arena.workload.note_drain(worker, worker.send(signal.SIGTERM))
    stimulus = asyncio.create_task(_stimulate(arena, doomed, point))
    with contextlib.suppress(pytest.fail.Exception):
        await wait_until(lambda: not doomed.is_running, f"it died: {name}", PATIENCE_S)
    died_at = time.monotonic()
    stimulus.cancel()
    await asyncio.wait([stimulus])
    if not stimulus.cancelled() and doomed.is_running:
        stimulus.result()  # it broke, and so nothing led to the point
    has_died = not doomed.is_running and doomed.exit_code == -signal.SIGKILL
    if doomed.is_running:
        died_at = doomed.send(signal.SIGKILL)
        await doomed.ended()
    alone = ", the only worker" if point.process == "worker" else ""
    arena.workload.note_kill(doomed, f"killed at a crash point{alone}", died_at)
    await deployment.be_whole()
    await arena.workload.until_flowing()
    return has_died


async def _replace_api(arena: Arena, trap: list[str]) -> Api:
    deployment = arena.deployment
    api = deployment.apis[-1]
    port = api.port
    api.send(signal.SIGTERM)
    await api.ended(25)
    return deployment.start_api(port=port, arguments=trap)


async def _stimulate(arena: Arena, doomed: Process, point: CrashPoint) -> None:
    """Brings about what leads to the point, again and again."""
    deployment = arena.deployment
    while True:
        await asyncio.sleep(0.5)
        match point.stimulus:
            case "flush":
                await deployment.flush_redis()
            case "lost worker":
                victim = deployment.start_worker()
                await victim.ready()
                await arena.workload.until_held(victim)
                victim.send(signal.SIGKILL)
            case "drain":
                if await arena.workload.holds(doomed):
                    arena.workload.note_drain(doomed, doomed.send(signal.SIGTERM))
            case "stubborn":
                await _cancel_a_stubborn_turn(arena, doomed)
            case "expiry":
                await _let_a_turn_expire(arena)
            case "load":
                pass


async def _cancel_a_stubborn_turn(arena: Arena, doomed: Process) -> None:
    client = arena.workload.client
    turn = await submit(client, {"deltas": 500, "intervalMs": 10, "ignoreCancelMs": 4000})

    async def runs() -> bool:
        return bool((await get_turn(client, turn["id"]))["status"] == "running")

    await wait_until(runs, "the stubborn turn runs")
    assert isinstance(doomed, Api)
    with contextlib.suppress(OSError):
        path = f"{CHAT}/turns/{turn['id']}/cancel"
        await Client(doomed.port, client.api_key).post(path, {})


async def _let_a_turn_expire(arena: Arena) -> None:
    client = arena.workload.client
    key = f"expiry-{arena.chance.random()}"
    long = await submit(client, {"deltas": 300, "intervalMs": 10}, concurrencyKey=key)
    waiting = await submit(client, {"deltas": 1}, concurrencyKey=key)
    async with arena.deployment.admin() as admin:
        await admin.execute(
            "update turns set expires_at = now() where id = $1 and status = 'pending'",
            waiting["id"],
        )
    await await_end(client, long["id"])


async def _poison(arena: Arena) -> Evidence:
    """A turn whose every worker dies of it is given up; its neighbours end well."""
    deployment, client = arena.deployment, arena.workload.client
    poison = await submit(client, {"deltas": 3000, "intervalMs": 10})
    deaths = 0
    while True:
        turn = await get_turn(client, poison["id"])
        if turn["status"] not in ("pending", "running"):
            break
        if turn["status"] == "running":
            holder = await deployment.holder(poison["id"])
            if holder.is_running:
                arena.workload.note_kill(holder, "poison", holder.send(signal.SIGKILL))
                await holder.ended()
                deaths += 1
                await deployment.be_whole()
        await asyncio.sleep(0.05)
    assert turn["status"] == "failed", turn
    assert turn["error"]["code"] == "poison", turn
    return Evidence(deaths, f"given up after {deaths} workers", {"deaths": deaths})


CRASH_FAULTS = (
    Fault("F13", "a turn that ends every worker", "worker", _poison),
    Fault("F14", "processes die at chosen places", "api", _crash_everywhere),
)
