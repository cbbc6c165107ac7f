"""`python -m tests.chaos.overload`: what is left of the service when far too much is asked of it.

Processes as they are deployed, Postgres with fsync, a client of fixed arrival rate. Each scenario
takes at most 90 s and writes one dictionary of figures; `broken` lists the promises it did not see
kept. Times are medians or 99th percentiles in ms unless a name says otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import uvloop

from benchmarks.answers import Ask
from benchmarks.load import percentile
from benchmarks.servers import Servers, run_servers
from benchmarks.systems import PEPPER, Options, Side, Turnkeep
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from tests.chaos.open_loop import Tally, open_and_reset, open_slowly, send_at_rate

SLOTS = 20
"""Turns that the one worker runs at a time: they, and not a CPU, are what is short."""
SCRIPT = {"deltas": 5, "intervalMs": 30}
QUANTUM_S = 0.15
"""How long such a turn takes."""
MAX_QUEUED = 200
READERS = 200
RESETS = 1000
OTHERS_PER_S = 20
OPENING_S = 4.0
SEND_TIMEOUT_S = 5

Figures = dict[str, Any]


@dataclass
class Peaks:
    """The most memory seen, in MB."""

    mb: dict[str, float] = field(default_factory=dict)

    def see(self, name: str, mb: float) -> None:
        self.mb[name] = round(max(mb, self.mb.get(name, 0.0)), 1)


@contextlib.asynccontextmanager
async def watched(system: Turnkeep) -> AsyncIterator[Peaks]:
    """Looks at the memory of all processes twice a second."""
    peaks = Peaks()

    async def look() -> None:
        while True:
            for name, pid in system.pids.items():
                peaks.see(f"{name} RSS", psutil.Process(pid).memory_info().rss / 1e6)
            used = await asyncio.to_thread(system.servers.redis_info, "memory")
            peaks.see("redis", used["used_memory"] / 1e6)
            await asyncio.sleep(0.5)

    task = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass
class Tenant:
    """A tenant of its own, with one key and some threads."""

    key: str
    threads: list[str]

    def turn(self, number: int, name: str, script: dict[str, Any] = SCRIPT) -> bytes:
        """A submit under a concurrency key of its own."""
        ask = Ask(
            "POST", "/api/v1/chat/threads/", ids=tuple(self.threads), path_tail="/turns",
            headers=(("authorization", f"Bearer {self.key}"),),
            body='{"message":"x","concurrencyKey":"',
            body_tail=f'","settings":{{"script":{json.dumps(script)}}}}}',
        )  # fmt: skip
        return ask.render(number, name)


async def add_tenant(system: Turnkeep, name: str, threads: int = 200) -> Tenant:
    async with Database(system.dsn, size=1) as database:
        tenant_id = await create_tenant(database, name)
        user_id = await create_user(database, tenant_id, f"{name}@example.org", name)
        key = await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name=name, pepper=PEPPER.encode()
        )
    rows = await query(
        system,
        "insert into threads (id, tenant_id, user_id) select gen_random_uuid(), $1, $2"
        " from generate_series(1, $3::int) returning id",
        tenant_id,
        user_id,
        threads,
    )
    return Tenant(key, [str(row["id"]) for row in rows])


async def query(system: Turnkeep, statement: str, *args: Any) -> list[Any]:
    connection = await asyncpg.connect(system.dsn)
    try:
        return list(await connection.fetch(statement, *args))
    finally:
        await connection.close()


async def settle(system: Turnkeep, patience_s: float = 20.0) -> None:
    """Until nothing waits or runs."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        (row,) = await query(
            system, "select count(*) n from turns where status in ('pending', 'running')"
        )
        if not row["n"]:
            return
        await asyncio.sleep(0.2)


async def waits_ms(system: Turnkeep, tally: Tally) -> list[float]:
    """From accept to start, of every turn that was accepted."""
    rows = await query(
        system,
        "select extract(epoch from started_at - created_at)::float8 * 1000 as ms from turns"
        " where id = any($1::uuid[]) and started_at is not null",
        [reply.turn_id for reply in tally.accepted()],
    )
    return [row["ms"] for row in rows]


async def metric(system: Turnkeep, name: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        text = (await reader.read()).decode()
    writer.close()
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    )


# -- goodput


async def measure_goodput(system: Turnkeep, seconds: float) -> Figures:
    """Completed turns a second at 1, 2 and 5 times what the workers can do."""
    tenant = await add_tenant(system, "goodput")
    peak = await _load(system, tenant, "before", SLOTS / QUANTUM_S * 1.5, seconds)
    saturation = peak["completed/s"]
    figures: Figures = {"saturation, turns/s": saturation}
    for times in (1, 2, 5):
        figures[f"{times}x"] = await _load(
            system, tenant, f"load{times}", saturation * times, seconds
        )
    # A machine that others use as well does not do the same all the time.
    peak = await _load(system, tenant, "after", SLOTS / QUANTUM_S * 1.5, seconds)
    figures["saturation at the end, turns/s"] = peak["completed/s"]
    saturation = (saturation + peak["completed/s"]) / 2
    broken = [
        f"{name}: {what}"
        for name in ("1x", "2x", "5x")
        for what, is_broken in {
            "goodput below 90 %": figures[name]["completed/s"] < 0.9 * saturation,
            "a refusal without Retry-After": figures[name]["refusals without Retry-After"],
            "rows that nobody was told of": figures[name]["rows beyond the accepted"],
            "broken connections": figures[name]["broken"],
        }.items()
        # At 1x an open loop asks for no more than the average that was measured.
        if is_broken and not (name == "1x" and what.startswith("goodput"))
    ]
    return {**figures, "broken": broken}


async def _load(
    system: Turnkeep, tenant: Tenant, name: str, per_s: float, seconds: float
) -> Figures:
    before = await _rows(system)
    began = time.time()
    async with watched(system) as peaks:
        tally = await send_at_rate(
            system.port, lambda n: tenant.turn(n, name), per_s=per_s, seconds=seconds
        )
    # The first seconds fill the queue.
    first, last = began + seconds / 4, began + seconds
    (row,) = await query(
        system,
        "select count(*) n from turns where status = 'completed'"
        " and ended_at between to_timestamp($1) and to_timestamp($2)",
        first,
        last,
    )
    await settle(system)
    after = await _rows(system)
    waits = await waits_ms(system, tally)
    accepted = len(tally.accepted())
    return {
        "offered/s": round(per_s, 1),
        "completed/s": round(row["n"] / (last - first), 1),
        "answers": tally.count(),
        "broken": tally.broken,
        "answer p99 ms": round(percentile([r.took_s * 1000 for r in tally.replies], 0.99), 1),
        "refusal p50 ms": round(percentile([r.took_s * 1000 for r in tally.refused()], 0.5), 1),
        "wait p50 ms": round(percentile(waits, 0.5)),
        "wait p99 ms": round(percentile(waits, 0.99)),
        "Retry-After": dict(sorted(Counter(str(r.retry_after) for r in tally.refused()).items())),
        "refusals without Retry-After": tally.lack_retry_after(),
        "rows beyond the accepted": {
            table: after[table] - before[table] - accepted
            for table in before
            if after[table] - before[table] != accepted
        },
        "memory, MB": peaks.mb,
    }


async def _rows(system: Turnkeep) -> dict[str, int]:
    (row,) = await query(
        system,
        "select (select count(*) from turns) turns, (select count(*) from idempotency_keys) keys,"
        " (select count(*) from messages where role = 'user') messages",
    )
    return dict(row)


# -- readers that do not read, and connections that are reset


async def measure_bad_clients(system: Turnkeep, seconds: float) -> Figures:
    """What 200 slow readers, 200 that never read and 1,000 resets cost everybody else."""
    tenant = await add_tenant(system, "reader")
    long_turn = await _long_turn(system, tenant)
    runs: dict[str, list[Figures]] = {}
    figures: Figures = {}
    async with watched(system) as peaks:
        await _others(system, tenant, "warm-up", 2)
        for number in range(2):
            for name, disturbance in {
                "alone": asyncio.sleep(0),
                "slow readers": _read_slowly(system, tenant, long_turn, 1.0, seconds),
                "never read": _read_slowly(system, tenant, long_turn, 0.0, seconds),
                "resets": _reset(system, tenant, long_turn, seconds),
            }.items():
                async with asyncio.TaskGroup() as group:
                    group.create_task(disturbance)
                    await asyncio.sleep(OPENING_S)
                    before = _open_files(system)
                    run_name = f"{name.split()[0]}-{number}"
                    runs.setdefault(name, []).append(
                        await _others(system, tenant, run_name, seconds)
                    )
                figures[f"{name}: files of the API, during and after"] = [
                    before,
                    _open_files(system),
                ]
    for name, found in runs.items():
        figures[name] = {key: statistics.median(f[key] for f in found) for key in found[0]}
    await asyncio.sleep(1.5)
    figures["open streams at the end"] = await metric(system, "turnkeep_open_streams")
    figures["closed as stalled"] = await metric(system, "turnkeep_stalled_connections_total")
    figures["memory, MB"] = peaks.mb
    alone = figures["alone"]
    broken = ["streams left open"] if figures["open streams at the end"] else []
    for name in ("slow readers", "never read", "resets"):
        if figures[name]["turns/s"] < 0.8 * alone["turns/s"]:
            broken.append(f"{name}: throughput of the others")
        if figures[name]["p99 ms"] > 1.2 * alone["p99 ms"]:
            broken.append(f"{name}: p99 of the others")
    return {**figures, "broken": broken}


def _open_files(system: Turnkeep) -> int:
    return psutil.Process(system.pids["api"]).num_fds()


async def _long_turn(system: Turnkeep, tenant: Tenant) -> str:
    """A turn whose answer is a megabyte: more than the system keeps for a client."""
    script = {"deltas": 10_000, "intervalMs": 0, "text": "x" * 99}
    tally = await send_at_rate(
        system.port, lambda n: tenant.turn(n, "long", script), per_s=1, seconds=1
    )
    await settle(system)
    return tally.replies[0].turn_id


async def _others(system: Turnkeep, tenant: Tenant, name: str, seconds: float) -> Figures:
    """A moderate load of streamed turns at a fixed rate, to the end of each."""

    def make(number: int) -> bytes:
        request = tenant.turn(number, name, {"deltas": 20, "intervalMs": 2})
        return request.replace(b"/turns HTTP", b"/turns/stream HTTP")

    began = time.perf_counter()
    tally = await send_at_rate(system.port, make, per_s=OTHERS_PER_S, seconds=seconds)
    took_s = time.perf_counter() - began
    whole = [reply.took_s for reply in tally.replies if b"[DONE]" in reply.body]
    return {
        "turns/s": round(len(whole) / took_s, 1),
        "p50 ms": round(percentile(whole, 0.5) * 1000, 1),
        "p99 ms": round(percentile(whole, 0.99) * 1000, 1),
        "not whole": OTHERS_PER_S * seconds - len(whole),
    }


async def _read_slowly(
    system: Turnkeep, tenant: Tenant, turn_id: str, bytes_per_s: float, seconds: float
) -> None:
    """Half of them read a stream, half an ordinary answer; they come one after the other."""
    paths = (f"turns/{turn_id}/events", f"threads/{tenant.threads[0]}/messages")
    headers = (("authorization", f"Bearer {tenant.key}"),)
    asks = [Ask("GET", f"/api/v1/chat/{path}", headers=headers).render(0, "") for path in paths]
    async with asyncio.TaskGroup() as group:
        for number in range(READERS):
            await asyncio.sleep(OPENING_S * 0.8 / READERS)
            group.create_task(
                open_slowly(
                    system.port,
                    asks[number % 2],
                    bytes_per_s=bytes_per_s,
                    seconds=seconds + SEND_TIMEOUT_S,
                )
            )


async def _reset(system: Turnkeep, tenant: Tenant, turn_id: str, seconds: float) -> None:
    """Streams that are opened and reset, evenly over the time."""
    headers = (("authorization", f"Bearer {tenant.key}"),)
    ask = Ask("GET", f"/api/v1/chat/turns/{turn_id}/events?after=1-9999", headers=headers)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(OPENING_S)
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(RESETS):
            await asyncio.sleep(max(0.0, began + number * seconds / RESETS - loop.time()))
            group.create_task(open_and_reset(system.port, ask.render(0, ""), reads=number % 2 == 0))


# -- fairness


async def measure_fairness(system: Turnkeep, seconds: float) -> Figures:
    """A quiet tenant beside one that floods, and four that flood alike."""
    quiet = await add_tenant(system, "quiet")
    flood = await add_tenant(system, "flood")
    capacity = SLOTS / QUANTUM_S
    rate = capacity / 20
    solo = await send_at_rate(
        system.port, lambda n: quiet.turn(n, "solo"), per_s=rate, seconds=seconds
    )
    await settle(system)
    async with asyncio.TaskGroup() as group:
        flooding = group.create_task(
            send_at_rate(
                system.port, lambda n: flood.turn(n, "flood"),
                per_s=capacity * 2, seconds=seconds + 2,
            )
        )  # fmt: skip
        await asyncio.sleep(2)
        beside = await send_at_rate(
            system.port, lambda n: quiet.turn(n, "beside"), per_s=rate, seconds=seconds
        )
    alone_p99 = percentile(await waits_ms(system, solo), 0.99)
    beside_p99 = percentile(await waits_ms(system, beside), 0.99)
    await settle(system)
    equals = [await add_tenant(system, f"equal{number}") for number in range(4)]
    began = time.time()
    async with asyncio.TaskGroup() as group:
        for index, tenant in enumerate(equals):
            # They do not come alike: what counts is what they get.
            group.create_task(_flood(system, tenant, capacity * (0.5 + index), seconds))
    rows = await query(
        system,
        "select tenant_id, count(*) n from turns where status = 'completed'"
        " and ended_at between to_timestamp($1) and to_timestamp($2) group by 1",
        began + 2,
        began + seconds,
    )
    shares = [row["n"] for row in rows]
    jain = sum(shares) ** 2 / (len(equals) * sum(share**2 for share in shares))
    broken = []
    if beside_p99 > 2 * alone_p99 + QUANTUM_S * 1000:
        broken.append("the quiet tenant waits")
    if jain < 0.9:
        broken.append("equals are not treated alike")
    return {
        "quiet tenant, offered/s": round(rate, 1),
        "flood, offered/s": round(capacity * 2, 1),
        "quiet tenant, answers": beside.count(),
        "flood, answers": flooding.result().count(),
        "start wait p99 alone, ms": round(alone_p99, 1),
        "start wait p99 beside the flood, ms": round(beside_p99, 1),
        "start wait p99 of the flood, ms": round(
            percentile(await waits_ms(system, flooding.result()), 0.99)
        ),
        "equals, completed": shares,
        "Jain": round(jain, 4),
        "broken": broken,
    }


async def _flood(system: Turnkeep, tenant: Tenant, per_s: float, seconds: float) -> Tally:
    return await send_at_rate(
        system.port, lambda n: tenant.turn(n, "equal"), per_s=per_s, seconds=seconds
    )


# -- many resets


async def measure_resets(system: Turnkeep, _: float) -> Figures:
    """5,000 streams opened and reset: every slot is given back."""
    tenant = await add_tenant(system, "resets")
    reply = (
        await send_at_rate(
            system.port,
            lambda n: tenant.turn(n, "held", {"deltas": 2, "hangAfter": 1}),
            per_s=1,
            seconds=1,
        )
    ).replies[0]
    authorization = (("authorization", f"Bearer {tenant.key}"),)
    events = Ask("GET", f"/api/v1/chat/turns/{reply.turn_id}/events", headers=authorization)
    waiting = (*authorization, ("prefer", "wait=60"))
    poll = Ask("GET", f"/api/v1/chat/turns/{reply.turn_id}", headers=waiting)
    began = time.monotonic()
    for _batch in range(50):
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                request = (poll if number % 4 == 0 else events).render(0, "")
                group.create_task(open_and_reset(system.port, request, reads=number % 4 == 1))
    took_s = time.monotonic() - began
    await asyncio.sleep(2)
    left = {
        name: await metric(system, f"turnkeep_{name}") for name in ("open_streams", "open_polls")
    }
    return {"opened/s": round(5000 / took_s), **left, "broken": [n for n in left if left[n]]}


LIMITED = (("TURNKEEP_MAX_QUEUED", str(MAX_QUEUED)),)
IMPATIENT = (("TURNKEEP_SEND_TIMEOUT_S", str(SEND_TIMEOUT_S)),)
Measure = Callable[[Turnkeep, float], Any]
SCENARIOS: dict[str, tuple[Measure, Options, float]] = {
    "goodput": (measure_goodput, Options(concurrency=SLOTS, threads=10, env=LIMITED), 10),
    "bad-clients": (measure_bad_clients, Options(env=IMPATIENT, threads=10), 4),
    "fairness": (measure_fairness, Options(concurrency=SLOTS, threads=10), 12),
    "resets": (measure_resets, Options(threads=10), 0),
}


def run(servers: Servers, name: str) -> Figures:
    measure, options, seconds = SCENARIOS[name]
    with Side("turnkeep", servers).start(options) as system:
        assert isinstance(system, Turnkeep)
        began = time.monotonic()
        figures: Figures = uvloop.run(measure(system, seconds))
        return {**figures, "took, s": round(time.monotonic() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.overload", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--out", type=Path, help="writes the figures as JSON")
    asked = parser.parse_args()
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="turnkeep-overload-") as folder:
        Path(folder).chmod(0o711)  # the embedded server's user has to pass through
        with run_servers(Path(folder)) as servers:
            for name in asked.only.split(","):
                found[name] = run(servers, name)
                print(json.dumps({name: found[name]}, indent=2), flush=True)
                if asked.out:
                    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if any(figures["broken"] for figures in found.values()) else 0)


if __name__ == "__main__":
    main()
