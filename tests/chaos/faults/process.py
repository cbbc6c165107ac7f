"""F01–F13: processes that die, freeze, block, leave and come back."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.acceptance.client import Client
from tests.acceptance.product import Worker, percentile
from tests.chaos.arena import Arena, Evidence, Fault
from tests.fixtures.waiting import wait_until


async def _kill_workers(arena: Arena) -> Evidence:
    deployment = arena.deployment
    kills = arena.times(6, 250)
    for _ in range(kills):
        await arena.workload.until_held()
        victim = arena.chance.choice(deployment.workers)
        arena.workload.note_kill(victim, "killed", victim.send(signal.SIGKILL))
        await victim.ended()
        await deployment.be_whole()
    return Evidence(kills, f"{kills} workers ended by SIGKILL while they held turns")


async def _kill_all_workers(arena: Arena) -> Evidence:
    deployment = arena.deployment
    workers = list(deployment.workers)
    await arena.workload.until_held()
    for worker in workers:
        arena.workload.note_kill(worker, "all killed", worker.send(signal.SIGKILL))
    for worker in workers:
        await worker.ended()
    accepted = arena.workload.accepted
    await asyncio.sleep(arena.seconds(6, 60))
    accepted_meanwhile = arena.workload.accepted - accepted
    await deployment.be_whole()
    return Evidence(
        len(workers) if accepted_meanwhile else 0,
        f"no worker for a while; {accepted_meanwhile} turns accepted meanwhile",
        {"accepted without a worker": accepted_meanwhile},
    )


async def _freeze_worker_past_lease(arena: Arena) -> Evidence:
    deployment = arena.deployment
    lease_s = float(deployment.settings.get("TURNKEEP_LEASE_S", "8"))
    await arena.workload.until_held()
    victim = arena.chance.choice(deployment.workers)
    refused = await _refused(victim)
    with deployment.stopped(victim.pid):
        arena.workload.note_kill(victim, "frozen", time.monotonic())
        await asyncio.sleep(lease_s * 2 + 2)
    await arena.workload.until_grown(lambda: _refused(victim), refused, patience_s=10)
    refused = await _refused(victim) - refused
    return Evidence(
        1, f"a worker frozen for {lease_s * 2 + 2:.0f} s came back", {"refused": refused}
    )


async def _refused(worker: Worker) -> float:
    counters = await worker.counters()
    return sum(
        value
        for name, value in counters.items()
        if name == "turnkeep_fenced_commits_total"
        or (name.startswith("turnkeep_log_writes_total") and ("FENCED" in name or "CLOSED" in name))
    )


async def _freeze_worker_within_lease(arena: Arena) -> Evidence:
    deployment = arena.deployment
    lease_s = float(deployment.settings.get("TURNKEEP_LEASE_S", "8"))
    await arena.workload.until_held()
    victim = arena.chance.choice(deployment.workers)
    takeovers = await arena.workload.count_takeovers(victim)
    with deployment.stopped(victim.pid):
        await asyncio.sleep(lease_s * 0.4)
    await asyncio.sleep(0.5)
    taken = await arena.workload.count_takeovers(victim) - takeovers
    assert taken == 0, f"{taken} turns taken from a worker whose lease had not lapsed"
    return Evidence(1, f"a worker frozen for {lease_s * 0.4:.1f} s kept its turns")


async def _block_loop(arena: Arena) -> Evidence:
    """A worker whose event loop stands still for longer than its lease, in mid-turn."""
    deployment = arena.deployment
    lease_s = float(deployment.settings.get("TURNKEEP_LEASE_S", "8"))
    blocked_s = lease_s * 2 + 2
    trap = ["-m", "tests.chaos.crash_points", "worker", "log, after an append"]
    old = deployment.workers[-1]
    victim = deployment.start_worker(arguments=[*trap, "--block", str(blocked_s)])
    arena.workload.note_drain(old, old.send(signal.SIGTERM))
    await old.ended(30)
    await victim.ready()
    arena.workload.note_kill(victim, "blocked", time.monotonic())
    await asyncio.sleep(blocked_s + 2)
    lost = await arena.workload.count_takeovers(victim)
    await deployment.let_go(victim)
    await deployment.be_whole()
    return Evidence(
        lost, f"a loop that stood still for {blocked_s:.0f} s lost {lost} turns", {"lost": lost}
    )


async def _roll_workers(arena: Arena) -> Evidence:
    deployment = arena.deployment
    rounds = arena.times(2, 20)
    drains = []
    for _ in range(rounds):
        for worker in list(deployment.workers):
            await arena.workload.until_held()
            began = worker.send(signal.SIGTERM)
            arena.workload.note_drain(worker, began)
            # Most turns end within the usual grace: the next ones leave theirs to others at once.
            deployment.start_worker({"TURNKEEP_DRAIN_S": "0.1"})
            code = await worker.ended(40)
            assert code == 0, worker.last_words()
            drains.append(time.monotonic() - began)
            await deployment.be_whole()
    return Evidence(
        len(drains),
        f"{len(drains)} workers replaced in good order under load",
        {"drain p50 s": percentile(drains, 50), "drain max s": max(drains)},
    )


async def _kill_during_drain(arena: Arena) -> Evidence:
    deployment = arena.deployment
    rounds = arena.times(3, 10)
    for _ in range(rounds):
        await arena.workload.until_held()
        victim = arena.chance.choice(deployment.workers)
        arena.workload.note_drain(victim, victim.send(signal.SIGTERM))
        await asyncio.sleep(arena.chance.random() * 0.3)
        if victim.is_running:
            arena.workload.note_kill(victim, "killed while draining", victim.send(signal.SIGKILL))
        await victim.ended()
        await deployment.be_whole()
    return Evidence(rounds, f"{rounds} workers killed while they drained")


async def _kill_api(arena: Arena) -> Evidence:
    deployment = arena.deployment
    rounds = arena.times(3, 20)
    lost = 0
    for _ in range(rounds):
        victim = arena.chance.choice(deployment.apis)

        async def has_streams(port: int = victim.port) -> int:
            return await _open_streams(port)

        lost += await wait_until(has_streams, "it has open streams", 30)
        victim.send(signal.SIGKILL)
        await victim.ended()
        await deployment.be_whole()
        await asyncio.sleep(arena.seconds(1, 3))
    return Evidence(rounds, f"{rounds} APIs killed with {lost} streams open", {"streams": lost})


async def _open_streams(port: int) -> int:
    answer = await Client(port, None).get("/metrics")
    for line in answer.body.decode().splitlines():
        if line.startswith("turnkeep_open_streams "):
            return int(float(line.split()[1]))
    return 0


async def _freeze_api(arena: Arena) -> Evidence:
    deployment = arena.deployment
    victim = arena.chance.choice(deployment.apis)
    with deployment.stopped(victim.pid):
        await asyncio.sleep(arena.seconds(6, 15))
    await victim.ready()
    return Evidence(1, "an API frozen and continued")


async def _roll_apis(arena: Arena) -> Evidence:
    deployment = arena.deployment
    rounds = arena.times(2, 20)
    drains = []
    for _ in range(rounds):
        for api in list(deployment.apis):
            began = api.send(signal.SIGTERM)
            code = await api.ended(25)
            assert code == 0, api.last_words()
            drains.append(time.monotonic() - began)
            await deployment.be_whole()
            await asyncio.sleep(0.5)
    return Evidence(
        len(drains),
        f"{len(drains)} APIs replaced in good order under load",
        {"drain max s": max(drains)},
    )


PROCESS_FAULTS = (
    Fault("F01", "a random worker is killed, again and again", "worker", _kill_workers),
    Fault("F02", "all workers are gone", "worker", _kill_all_workers),
    Fault(
        "F03", "a worker freezes past its lease and comes back", "worker", _freeze_worker_past_lease
    ),
    Fault("F04", "a worker freezes for less than its lease", "worker", _freeze_worker_within_lease),
    Fault("F05", "a worker's event loop stands still", "worker", _block_loop),
    Fault("F06", "workers are replaced one by one", "worker", _roll_workers),
    Fault("F07", "a draining worker is killed", "worker", _kill_during_drain),
    Fault("F08", "an API is killed with its streams", "api", _kill_api),
    Fault("F09", "an API freezes", "api", _freeze_api),
    Fault("F10", "APIs are replaced one by one", "api", _roll_apis),
)
