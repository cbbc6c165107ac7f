"""F15–F30: Redis that is away, slow, full, empty, rolled back, or says something else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from shared.errors import RedisUnavailable
from tests.acceptance.client import Client
from tests.acceptance.product import Api
from tests.chaos.arena import Arena, Evidence, Fault
from tests.chaos.deployment import Deployment
from tests.fixtures.waiting import wait_until


async def _restart_empty(arena: Arena) -> Evidence:
    rounds = arena.times(2, 10)
    away_s = 0.0
    for _ in range(rounds):
        before = await _run_id(arena.deployment)
        began = time.monotonic()
        await arena.deployment.stop_redis()
        await asyncio.sleep(arena.chance.uniform(0.2, 3))
        arena.deployment.start_redis()
        away_s += time.monotonic() - began
        assert await _run_id(arena.deployment) != before
        await arena.workload.until_flowing()
    return Evidence(rounds, f"Redis killed and empty again {rounds} times", {"away s": away_s})


async def _away_for_long(arena: Arena) -> Evidence:
    deployment, workload = arena.deployment, arena.workload
    await deployment.stop_redis()
    accepted, ended = workload.accepted, await workload.count_ended()
    await asyncio.sleep(arena.seconds(10, 60))
    accepted = workload.accepted - accepted
    ended = await workload.count_ended() - ended
    deployment.start_redis()
    await workload.until_flowing()
    return Evidence(
        1 if accepted and ended else 0,
        f"without Redis {accepted} turns were accepted and {ended} ended",
        {"accepted": accepted, "ended": ended},
    )


async def _flush(arena: Arena) -> Evidence:
    rounds = arena.times(8, 40)
    flushed = 0
    for _ in range(rounds):
        await arena.workload.until_held()
        async with arena.deployment.redis() as redis:
            flushed += int(await redis.call("DBSIZE"))
            await redis.call("FLUSHALL")
        await asyncio.sleep(arena.chance.uniform(0.1, 1.5))
    return Evidence(rounds if flushed else 0, f"{rounds} FLUSHALL took {flushed} keys")


async def _roll_back(arena: Arena) -> Evidence:
    """Redis is killed and starts from an older dump, as after a promotion of a late replica."""
    deployment = arena.deployment
    dump = deployment.valkey.socket_dir / "dump.rdb"
    rounds = arena.times(3, 10)
    restored = 0
    try:
        for _ in range(rounds):
            await arena.workload.until_held()
            async with deployment.redis() as redis:
                await redis.call("SAVE")
            await asyncio.sleep(arena.seconds(3, 10))
            await deployment.stop_redis()
            deployment.start_redis()
            async with deployment.redis() as redis:
                restored += int(await _info(redis, "persistence", "rdb_last_load_keys_loaded"))
            await arena.workload.until_flowing()
    finally:
        dump.unlink(missing_ok=True)
    return Evidence(restored, f"Redis went back in time {rounds} times, with {restored} old keys")


async def _kill_clients(arena: Arena) -> Evidence:
    rounds = arena.times(6, 30)
    killed = 0
    for _ in range(rounds):
        async with arena.deployment.redis() as redis:
            for kind in ("normal", "pubsub"):
                killed += int(await redis.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))
        await asyncio.sleep(1)
    return Evidence(killed, f"{killed} connections killed by Redis")


async def _pause(arena: Arena) -> Evidence:
    async with arena.deployment.redis() as redis:
        await redis.call("CLIENT", "PAUSE", 5000, "ALL")
    began = time.monotonic()
    async with arena.deployment.redis() as redis:
        with contextlib.suppress(RedisUnavailable, TimeoutError):
            await redis.call("PING")
    paused_s = time.monotonic() - began
    await asyncio.sleep(max(0.0, 5.2 - paused_s))
    return Evidence(1 if paused_s > 1 else 0, f"Redis answered nobody for {paused_s:.1f} s")


async def _freeze(arena: Arena) -> Evidence:
    workload = arena.workload
    with arena.deployment.stopped(arena.deployment.redis_pid):
        accepted = workload.accepted
        await asyncio.sleep(arena.seconds(12, 60))
        accepted = workload.accepted - accepted
    await workload.until_flowing()
    return Evidence(1, f"Redis frozen; {accepted} turns accepted meanwhile", {"accepted": accepted})


async def _run_out_of_memory(arena: Arena) -> Evidence:
    async with arena.deployment.redis() as redis:
        most = await _config(redis, "maxmemory")
        refused = await _count_errors(redis, "OOM")
        await redis.call("CONFIG", "SET", "maxmemory", "1mb")
        try:
            await asyncio.sleep(arena.seconds(5, 20))
            refused = await _count_errors(redis, "OOM") - refused
        finally:
            await redis.call("CONFIG", "SET", "maxmemory", most)
    await arena.workload.until_flowing()
    return Evidence(refused, f"Redis refused {refused} writes: no memory", {"refused": refused})


async def _wrong_policy(arena: Arena) -> Evidence:
    """Who runs already says so and goes on; who starts is not ready."""
    deployment = arena.deployment
    async with deployment.redis() as redis:
        await redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            running, new = deployment.apis[0], deployment.start_api()
            told = [
                await wait_until(lambda api=api: _readiness(api), f"{api.name} answers", 20)
                for api in (running, new)
            ]
        finally:
            await redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await new.ready()
    await deployment.let_go(new)
    assert [status for status, _ in told] == [200, 503], told
    assert all("evicts" in body for _, body in told), told
    return Evidence(1, "noticed: an API that runs says so, one that starts is not ready")


async def _readiness(api: Api) -> tuple[int, str] | None:
    try:
        answer = await Client(api.port, None).get("/readyz")
    except OSError:
        return None
    return answer.status, answer.body.decode()


async def _flush_scripts(arena: Arena) -> Evidence:
    rounds = arena.times(5, 20)
    async with arena.deployment.redis() as redis:
        missed = await _count_errors(redis, "NOSCRIPT")
        for _ in range(rounds):
            await redis.call("SCRIPT", "FLUSH")
            await asyncio.sleep(0.5)
        missed = await _count_errors(redis, "NOSCRIPT") - missed
    return Evidence(missed, f"{missed} calls met a forgotten script", {"NOSCRIPT": missed})


async def _few_clients(arena: Arena) -> Evidence:
    async with arena.deployment.redis() as redis:
        most = await _config(redis, "maxclients")
        await redis.call("CONFIG", "SET", "maxclients", 3)
        rejected = await _stat(redis, "rejected_connections")
        try:
            await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(arena.seconds(4, 15))
            rejected = await _stat(redis, "rejected_connections") - rejected
        finally:
            await redis.call("CONFIG", "SET", "maxclients", most)
    await arena.workload.until_flowing()
    return Evidence(rejected, f"{rejected} connections refused by Redis")


async def _small_subscriber_buffers(arena: Arena) -> Evidence:
    async with arena.deployment.redis() as redis:
        before = await _config(redis, "client-output-buffer-limit")
        killed = await _stat(redis, "client_output_buffer_limit_disconnections")
        await redis.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 16kb 8kb 1")
        try:
            links = [slot.redis for slot in arena.deployment.links(Api)]
            for _ in range(arena.times(3, 10)):
                for link in links:
                    link.hold_back()
                await asyncio.sleep(2.5)
                for link in links:
                    link.let_go()
                await asyncio.sleep(1)
            killed = await _stat(redis, "client_output_buffer_limit_disconnections") - killed
        finally:
            await redis.call("CONFIG", "SET", "client-output-buffer-limit", before)
    return Evidence(killed, f"{killed} subscribers dropped for what they had not read")


async def _read_only(arena: Arena) -> Evidence:
    async with arena.deployment.redis() as redis:
        refused = await _count_errors(redis, "READONLY")
        await redis.call("REPLICAOF", "127.0.0.1", "1")
        try:
            await asyncio.sleep(arena.seconds(4, 15))
            refused = await _count_errors(redis, "READONLY") - refused
        finally:
            await redis.call("REPLICAOF", "NO", "ONE")
    await arena.workload.until_flowing()
    return Evidence(refused, f"{refused} writes refused by a replica", {"refused": refused})


async def _run_id(deployment: Deployment) -> str:
    async with deployment.redis() as redis:
        return str(await _info(redis, "server", "run_id"))


async def _stat(redis: Any, name: str) -> int:
    return int(await _info(redis, "stats", name) or 0)


async def _count_errors(redis: Any, code: str) -> int:
    said = await _info(redis, "errorstats", f"errorstat_{code}")
    return int(said.removeprefix("count=")) if said else 0


async def _info(redis: Any, section: str, name: str) -> str:
    info: bytes = await redis.call("INFO", section)
    for line in info.decode().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    return ""


async def _config(redis: Any, name: str) -> str:
    value: bytes = (await redis.call("CONFIG", "GET", name))[1]
    return value.decode()


REDIS_FAULTS = (
    Fault("F15", "Redis is killed and comes back empty", "redis", _restart_empty),
    Fault("F15b", "Redis is away for long", "redis", _away_for_long),
    Fault(
        "F18", "Redis goes back in time (an old dump, a replica that lagged)", "redis", _roll_back
    ),
    Fault("F19", "FLUSHALL", "redis", _flush),
    Fault("F21", "Redis ends all connections, again and again", "redis", _kill_clients),
    Fault("F22", "Redis answers nobody for 5 s", "redis", _pause),
    Fault("F23", "Redis freezes", "redis", _freeze),
    Fault("F24", "Redis has no memory left", "redis", _run_out_of_memory),
    Fault("F25", "Redis would drop keys when it is full", "redis", _wrong_policy),
    Fault("F27", "Redis forgets its scripts", "redis", _flush_scripts),
    Fault("F28", "Redis takes no more clients", "redis", _few_clients),
    Fault("F29", "Redis drops subscribers that do not read", "redis", _small_subscriber_buffers),
    Fault("F30", "Redis is a replica: every write is refused", "redis", _read_only),
)
