"""The scenarios of the turn engine's figures, at any size.

Each runs on a whole product, asserts what must always hold, and returns what was measured. None
asserts a duration: those belong to the report and, with wide margins, to the tests.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import psutil

from tests.acceptance.client import Client, Frame, Told, check_told, words
from tests.acceptance.product import Product, Worker, percentile
from tests.acceptance.talk import (
    CHAT,
    all_of,
    await_end,
    events_path,
    follow,
    get_turn,
    make_thread,
    output_text,
    read_frames,
    require_problem,
    seconds,
    submit,
    turn_body,
)
from tests.fixtures.waiting import wait_until

FENCED = 'turnkeep_log_writes_total{word="FENCED"}'
FENCED_COMMITS = "turnkeep_fenced_commits_total"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, by nearest rank."""

    count: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Times:
        return cls(len(values), percentile(values, 50), percentile(values, 99), max(values))

    def __str__(self) -> str:
        p50, p99, most = (f"{value * 1000:.1f}" for value in (self.p50, self.p99, self.most))
        return f"p50 {p50} ms, p99 {p99} ms, max {most} ms (n = {self.count})"


# -- one idempotency key


@dataclass(frozen=True, slots=True)
class Idempotency:
    sent: int
    ids: int
    replayed: int
    executions: int
    messages: int
    usage_rows: int


async def submit_one_key_often(product: Product, *, at_once: int, later: int) -> Idempotency:
    """The same request many times under one key, at once and after the turn has ended."""
    client, thread = product.client, await make_thread(product.client)
    path, body = f"{CHAT}/threads/{thread}/turns", turn_body({"deltas": 20, "intervalMs": 5})
    key = f'"{secrets.token_hex(8)}"'
    answers = await all_of(client.post(path, body, Idempotency_Key=key) for _ in range(at_once))
    turn_id = answers[0].json["id"]
    await await_end(client, turn_id)
    answers += [await client.post(path, body, Idempotency_Key=key) for _ in range(later)]
    assert {answer.status for answer in answers} <= {200, 202}
    require_problem(await client.post(path, {**body, "message": "other"}, Idempotency_Key=key), 422)
    ids = {answer.json["id"] for answer in answers}
    replayed = sum(answer.headers.get("idempotency-replayed") == "true" for answer in answers)
    return await _count_executions(product, thread, turn_id, len(answers), ids, replayed)


async def stream_one_key_often(product: Product, *, at_once: int, later: int) -> Idempotency:
    """The same through the streaming endpoint: every caller attaches to the one turn."""
    client, thread = product.client, await make_thread(product.client)
    path = f"{CHAT}/threads/{thread}/turns/stream"
    body = turn_body({"deltas": 20, "intervalMs": 5})
    key = secrets.token_hex(8)

    async def once() -> tuple[str, bool]:
        async with client.stream(path, body, Idempotency_Key=key) as stream:
            assert stream.status == 200, stream.body
            frames = await stream.rest()
        assert frames[-1].data == b"[DONE]"
        said = [frame.json for frame in frames[:-1] if frame.data]
        text = "".join(part["delta"] for part in said if part["type"] == "text-delta")
        assert text == words(20)
        replayed = stream.headers.get("idempotency-replayed") == "true"
        return said[0]["messageMetadata"]["turnId"], replayed

    answers = await all_of(once() for _ in range(at_once))
    answers += [await once() for _ in range(later)]
    refused = await client.post(path, {**body, "message": "other"}, Idempotency_Key=key)
    require_problem(refused, 422)
    ids = {turn_id for turn_id, _ in answers}
    replayed = sum(was_replayed for _, was_replayed in answers)
    return await _count_executions(product, thread, answers[0][0], len(answers), ids, replayed)


async def _count_executions(
    product: Product, thread: str, turn_id: str, sent: int, ids: set[str], replayed: int
) -> Idempotency:
    told = await follow(product.client, turn_id)
    async with product.postgres() as connection:
        turns = await connection.fetchval("select count(*) from turns where thread_id = $1", thread)
        messages = await connection.fetchval(
            "select count(*) from messages where thread_id = $1", thread
        )
        usage_rows = await connection.fetchval(
            "select count(*) from usage u join turns t on t.id = u.turn_id where t.thread_id = $1",
            thread,
        )
    assert ids == {turn_id}
    assert turns == 1
    assert told.attempts == (1,)
    assert (messages, usage_rows) == (2, 1)
    assert replayed == sent - 1
    return Idempotency(sent, len(ids), replayed, len(told.attempts), messages, usage_rows)


# -- one concurrency key


@dataclass(frozen=True, slots=True)
class Order:
    turns: int
    overlaps: int
    inversions: int
    per_worker: list[int]
    gaps: Times
    """From one turn's end to the next one's start, by Postgres' clock."""


async def run_one_line(product: Product, *, turns: int) -> Order:
    """Turns on one concurrency key, sent in order, each in a thread of its own."""
    client, key = product.client, f"line-{secrets.token_hex(4)}"
    before = [await _ended_count(worker) for worker in product.workers]
    accepted = [
        await submit(client, {"deltas": 5, "intervalMs": 10}, concurrencyKey=key)
        for _ in range(turns)
    ]
    ended = await all_of(await_end(client, turn["id"]) for turn in accepted)
    assert {turn["status"] for turn in ended} == {"completed"}
    spans = [(seconds(turn, "startedAt"), seconds(turn, "completedAt")) for turn in ended]
    gaps = [after[0] - first[1] for first, after in pairwise(spans)]
    overlaps = sum(gap < 0 for gap in gaps)
    inversions = sum(after[0] < first[0] for first, after in pairwise(spans))
    assert (overlaps, inversions) == (0, 0)

    async def counted() -> list[int] | None:
        after = [await _ended_count(worker) for worker in product.workers]
        counts = [int(now - then) for now, then in zip(after, before, strict=True)]
        return counts if sum(counts) >= turns else None

    per_worker = await wait_until(counted, "the workers have counted their turns")
    assert sum(per_worker) == turns
    return Order(turns, overlaps, inversions, per_worker, Times.of(gaps))


async def _ended_count(worker: Worker) -> float:
    counters = await worker.counters()
    return sum(n for name, n in counters.items() if name.startswith("turnkeep_turns_ended_total"))


# -- readers that come and go


@dataclass(frozen=True, slots=True)
class Readers:
    readers: int
    events: int
    reconnects: int
    delivered: int
    lasted_s: float


async def reconnect_at_random(
    product: Product, *, readers: int, deltas: int, interval_ms: float, seed: int = 7
) -> Readers:
    """Readers that drop their connection again and again during one turn."""
    client = product.client
    turn = await submit(client, {"deltas": deltas, "intervalMs": interval_ms})
    began = time.monotonic()
    lots = random.Random(seed)  # noqa: S311 - not a secret
    reconnects = Counter[str]()

    async def read() -> Told:
        frames: list[Frame] = []
        cursor = "0-0"
        while True:
            quota = lots.randint(1, max(2, deltas // 5))
            async with client.stream(events_path(turn["id"]), Last_Event_ID=cursor) as stream:
                assert stream.status == 200, stream.body
                async for frame in stream:
                    if not frame.data or not frame.id:
                        continue
                    frames.append(frame)
                    cursor = frame.id
                    quota -= 1
                    if not quota or frame.event == "turn.ended":
                        break
            if frames and frames[-1].event == "turn.ended":
                return check_told(frames)
            reconnects["all"] += 1
            await asyncio.sleep(lots.random() * 0.2)

    steady, *told = await all_of([follow(client, turn["id"]), *(read() for _ in range(readers))])
    lasted_s = time.monotonic() - began
    assert steady.text == words(deltas)
    assert len(steady.events) == deltas + 2
    for one in told:
        assert one.events == steady.events
    delivered = sum(len(one.events) for one in told)
    return Readers(readers, len(steady.events), reconnects["all"], delivered, lasted_s)


# -- workers that die or freeze


@dataclass(frozen=True, slots=True)
class Kills:
    kills: int
    completed: int
    takeover: Times


async def kill_holders(product: Product, *, kills: int, deltas: int = 150) -> Kills:
    """SIGKILLs the worker that holds a turn, again and again; a reader watches each time."""
    takeovers = []
    for _ in range(kills):
        await product.be_whole()
        takeovers.append(await _kill_one_holder(product, deltas))
    await product.be_whole()
    return Kills(kills, len(takeovers), Times.of(takeovers))


async def _kill_one_holder(product: Product, deltas: int) -> float:
    client = product.client
    turn = await submit(client, {"deltas": deltas, "intervalMs": 10})
    async with client.stream(events_path(turn["id"])) as stream:
        frames = [await stream.until("message.delta")]
        holder = await product.holder(turn["id"])
        killed_at = holder.send(signal.SIGKILL)
        again = await stream.until("turn.started")
        assert again.json["attempt"] == 2
        frames = [again, *await stream.rest()]
    told = check_told(frames, after="1-1")
    assert told.status == "completed"
    assert told.text == words(deltas)
    await _require_one_result(product, turn["id"], words(deltas))
    return again.at - killed_at


async def _require_one_result(product: Product, turn_id: str, text: str) -> None:
    async with product.postgres() as connection:
        answers = await connection.fetch(
            "select content from messages where turn_id = $1 and role = 'assistant'", turn_id
        )
        usage_rows = await connection.fetchval(
            "select count(*) from usage where turn_id = $1", turn_id
        )
    assert [row["content"] for row in answers] == [text]
    assert usage_rows == 1


@dataclass(frozen=True, slots=True)
class Frozen:
    lease_s: float
    takeover_s: float
    refused_writes: int
    refused_commits: int
    results: int
    usage_rows: int


async def freeze_holder(product: Product, *, lease_s: float, heartbeat_s: float) -> Frozen:
    """SIGSTOPs a worker past its lease and lets it go on while another one runs its turns.

    It holds one turn that streams and one that is about to end, so that it comes back to write
    events of the one and to commit the other.
    """
    client = product.client
    # Twice a lease and more: still being streamed when the frozen worker comes back.
    deltas = int(lease_s * 100) + 300
    clocks = {"TURNKEEP_LEASE_S": str(lease_s), "TURNKEEP_HEARTBEAT_S": str(heartbeat_s)}
    async with product.other_workers(2, **clocks) as (frozen, other):
        other.send(signal.SIGSTOP)  # for a moment, so that both turns are the first worker's
        await product.unblock_idle_workers()
        streaming = await submit(client, {"deltas": deltas, "intervalMs": 10})
        ending = await submit(
            client, {"deltas": 3, "intervalMs": 1, "hangAfter": 3, "hangMs": lease_s * 600}
        )
        async with (
            client.stream(events_path(streaming["id"])) as stream,
            client.stream(events_path(ending["id"])) as other_stream,
        ):
            await stream.until("message.delta")
            await other_stream.until("message.delta")
            other.send(signal.SIGCONT)
            stopped_at = frozen.send(signal.SIGSTOP)
            again = await stream.until("turn.started")
            assert again.json["attempt"] == 2
            assert (await other_stream.until("turn.started")).json["attempt"] == 2
            frozen.send(signal.SIGCONT)
            frames = [again, *await stream.rest()]
            other_frames = await other_stream.rest()
        told = check_told(frames, after="1-1")
        assert told.attempts == (2,)
        assert (told.status, told.text) == ("completed", words(deltas))
        assert check_told(other_frames, after="2-1").status == "completed"
        await _require_one_result(product, streaming["id"], words(deltas))
        await _require_one_result(product, ending["id"], words(3))
        for turn in (streaming, ending):
            assert (await get_turn(client, turn["id"]))["attempt"] == 2
        refused_writes = int(await frozen.count(FENCED))
        refused_commits = int(await frozen.count(FENCED_COMMITS))
        assert refused_writes > 0
    await product.be_whole()
    return Frozen(lease_s, again.at - stopped_at, refused_writes, refused_commits, 2, 2)


# -- cancel


@dataclass(frozen=True, slots=True)
class Cancels:
    cancels: int
    ack: Times
    deltas_after_ack: int
    closest_s: float
    """From the last delta any reader got to its cancel's acknowledgement, the shortest."""
    kept_all_seen: int
    forced: int
    flipped: int
    watched_s: float


async def cancel_streaming(
    product: Product, *, times: int, at_once: int = 1, watched_s: float = 3.0, seed: int = 7
) -> Cancels:
    """Cancels turns in mid-stream, each under two readers: native and UI message stream."""
    lots = random.Random(seed)  # noqa: S311 - not a secret
    gate = asyncio.Semaphore(at_once)

    async def one() -> _Cancelled:
        async with gate:
            return await _cancel_one(product.client, lots.randint(1, 60))

    done = await all_of(one() for _ in range(times))
    flipped = 0
    watch_until = time.monotonic() + watched_s
    while time.monotonic() < watch_until:
        turns = await all_of(get_turn(product.client, one.turn["id"]) for one in done)
        flipped += sum(turn != one.turn for turn, one in zip(turns, done, strict=True))
    assert flipped == 0
    return Cancels(
        times,
        Times.of([one.ack_s for one in done]),
        sum(one.late for one in done),
        min(one.quiet_s for one in done),
        sum(one.kept_all_seen for one in done),
        sum(one.turn["attempt"] > 1 for one in done),
        flipped,
        watched_s,
    )


@dataclass(frozen=True, slots=True)
class _Cancelled:
    turn: dict[str, Any]
    ack_s: float
    late: int
    quiet_s: float
    kept_all_seen: bool


async def _cancel_one(client: Client, after_deltas: int) -> _Cancelled:
    script = {"deltas": 10_000, "intervalMs": 5}
    turn = await submit(client, script)
    ui_path = f"{CHAT}/threads/{turn['threadId']}/stream"
    async with client.stream(events_path(turn["id"])) as native, client.stream(ui_path) as ui:
        ui_rest = asyncio.create_task(ui.rest())
        frames: list[Frame] = []
        while sum(frame.event == "message.delta" for frame in frames) < after_deltas:
            frames.append(await anext(native))
        rest = asyncio.create_task(native.rest())
        asked_at = time.monotonic()
        ack = await client.post(f"{CHAT}/turns/{turn['id']}/cancel", {})
        assert ack.status == 200, ack.body
        assert ack.json["status"] == "cancelled"
        frames += await rest
        ui_frames = await ui_rest
    told = check_told(frames)
    assert told.status == "cancelled"
    assert ui_frames[-1].data == b"[DONE]"
    deltas = [f.at for f in frames if f.event == "message.delta"]
    deltas += [f.at for f in ui_frames if b'"text-delta"' in f.data]
    kept = await output_text(client, ack.json)
    assert kept
    assert kept.startswith(told.text)
    assert words(10_000).startswith(kept)
    assert ack.json["usage"]["outputTokens"] == len(kept.split())
    late = sum(at > ack.at for at in deltas)
    return _Cancelled(ack.json, ack.at - asked_at, late, ack.at - max(deltas), kept == told.text)


# -- Redis forgets everything


@dataclass(frozen=True, slots=True)
class Flush:
    running: int
    queued: int
    right: int
    most_running_per_key: int
    streams: int
    snapshots: int
    settled_s: float


async def flush_under_load(
    product: Product, *, keys: int, queued_per_key: int, deltas: int = 100
) -> Flush:
    """FLUSHALL while one turn of each key runs and others wait, all of them being followed."""
    client = product.client
    runs = [await _fill_line(client, queued_per_key, deltas) for _ in range(keys)]
    turns = [turn for line in runs for turn, _ in line]
    wanted = {turn["id"]: status for line in runs for turn, status in line}

    async def all_heads_run() -> bool:
        heads = await all_of(get_turn(client, line[0][0]["id"]) for line in runs)
        return {head["status"] for head in heads} == {"running"}

    await wait_until(all_heads_run, "the first turn of each key runs")
    readers = [asyncio.create_task(read_frames(client, turn["id"])) for turn in turns]
    async with _watch_limits(product, [turn["id"] for turn in turns]) as peaks:
        await product.flush_redis()
        flushed_at = time.monotonic()
        to_cancel = [turn["id"] for turn in turns if wanted[turn["id"]] == "cancelled"]
        await all_of(client.post(f"{CHAT}/turns/{turn_id}/cancel", {}) for turn_id in to_cancel)
        ended = await all_of(await_end(client, turn["id"]) for turn in turns)
        settled_s = time.monotonic() - flushed_at
        frames = [await reader for reader in readers]
    assert {turn["id"]: turn["status"] for turn in ended} == wanted
    for line in runs:
        _require_line_order(ended, {turn["id"] for turn, _ in line})
    snapshots = _check_flushed(frames, [wanted[turn["id"]] for turn in turns])
    most = max(peaks.values())
    assert most == 1
    return Flush(keys, keys * queued_per_key, len(ended), most, len(frames), snapshots, settled_s)


async def _fill_line(client: Client, queued: int, deltas: int) -> list[tuple[dict[str, Any], str]]:
    """Turns of one key, and the status each must reach: one fails, one is cancelled."""
    key = f"flush-{secrets.token_hex(4)}"
    line = [
        (
            await submit(client, {"deltas": deltas, "intervalMs": 20}, concurrencyKey=key),
            "completed",
        )
    ]
    for number in range(queued):
        script: dict[str, Any] = {"deltas": 10, "intervalMs": 10}
        status = {1: "failed", 2: "cancelled"}.get(number, "completed")
        if status == "failed":
            script["failAfter"] = 5
        line.append((await submit(client, script, concurrencyKey=key), status))
    return line


def _require_line_order(ended: list[dict[str, Any]], ids: set[str]) -> None:
    ran = [turn for turn in ended if turn["id"] in ids and turn["startedAt"]]
    for first, after in pairwise(ran):
        assert seconds(after, "startedAt") >= seconds(first, "completedAt")


def _check_flushed(told: list[list[Frame]], statuses: list[str]) -> int:
    snapshots = 0
    for frames, status in zip(told, statuses, strict=True):
        assert frames[-1].event == "turn.ended"
        assert frames[-1].json["status"] == status
        if any(frame.event == "turn.snapshot" for frame in frames):
            snapshots += 1
            continue
        one = check_told(frames) if len(frames) > 2 else None
        if status == "completed":
            assert one is not None
            assert one.text == words(len(one.text.split()))
            assert one.attempts == (1,)
    return snapshots


@asynccontextmanager
async def _watch_limits(product: Product, ids: list[str]) -> AsyncIterator[Counter[str]]:
    """Counts the most turns of each key that Postgres ever shows as running."""
    peaks = Counter[str]()

    async def watch() -> None:
        async with product.postgres() as connection:
            while True:
                rows = await connection.fetch(
                    "select concurrency_key, count(*) from turns"
                    " where id = any($1::uuid[]) and status = 'running' group by 1",
                    ids,
                )
                for key, count in rows:
                    peaks[key] = max(peaks[key], count)
                await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield peaks
    finally:
        task.cancel()
        await asyncio.wait([task])


# -- rolling restart


@dataclass(frozen=True, slots=True)
class Rolling:
    turns: int
    failed: int
    handed_over: int
    hand_over: Times | None
    """From the last event of the old attempt to the first of the new one, at the reader."""
    drains_s: list[float] = field(default_factory=list)


async def roll_workers(
    product: Product, *, lines: int, long_deltas: int = 400, drain_s: float = 1.0
) -> Rolling:
    """Both workers are replaced one after the other, while streams and polls go on."""
    client = product.client
    done = asyncio.Event()
    turns: list[str] = []
    gaps: list[float] = []

    async def keep_busy(number: int) -> None:
        while not done.is_set():
            # Every fourth line has turns that outlast the grace and so must change hands.
            deltas = long_deltas if number % 4 == 0 else 20
            turn = await submit(client, {"deltas": deltas, "intervalMs": 10})
            turns.append(turn["id"])
            if number % 2:
                ended = await await_end(client, turn["id"])
                assert ended["status"] == "completed", ended
                assert await output_text(client, ended) == words(deltas)
                continue
            frames = await read_frames(client, turn["id"])
            told = check_told(frames)
            assert (told.status, told.text) == ("completed", words(deltas))
            gaps.extend(_hand_over_gaps(frames))

    async def has_long_turn(worker: Worker) -> bool:
        """Whether a turn runs there that outlasts the grace by far."""
        async with product.postgres() as connection:
            found = await connection.fetchval(
                "select count(*) from turns where status = 'running' and worker_id like $1"
                " and settings -> 'script' ->> 'deltas' = $2"
                " and started_at > now() - interval '0.5 s'",
                f"%-{worker.pid}-%",
                str(long_deltas),
            )
        return bool(found)

    async def roll() -> list[float]:
        drains = []
        for worker in list(product.workers):
            await wait_until(lambda: len(turns) > lines, "there is load")
            await wait_until(lambda: has_long_turn(worker), "it has just begun a long turn")  # noqa: B023
            sent_at = worker.send(signal.SIGTERM)
            assert await worker.ended(30) == 0
            drains.append(time.monotonic() - sent_at)
            product.workers.remove(worker)
            await product.start_worker({"TURNKEEP_DRAIN_S": str(drain_s)}).ready()
            turns_before = len(turns)
            await wait_until(lambda: len(turns) >= turns_before + lines, "load goes on")  # noqa: B023
        done.set()
        return drains

    async with product.other_workers(2, TURNKEEP_DRAIN_S=str(drain_s)):
        async with asyncio.TaskGroup() as group:
            rolled = group.create_task(roll())
            for number in range(lines):
                group.create_task(keep_busy(number))
        await product.let_go(*product.workers)
    await product.be_whole()
    async with product.postgres() as connection:
        rows = await connection.fetch(
            "select status, attempt, (select count(*) from usage u where u.turn_id = t.id) as bills"
            " from turns t where id = any($1::uuid[])",
            turns,
        )
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["bills"] for row in rows} == {1}
    handed_over = sum(row["attempt"] > 1 for row in rows)
    times = Times.of(gaps) if gaps else None
    return Rolling(len(turns), 0, handed_over, times, rolled.result())


def _hand_over_gaps(frames: list[Frame]) -> list[float]:
    told = [frame for frame in frames if frame.event and frame.id]
    return [
        frame.at - before.at for before, frame in pairwise(told) if frame.event == "turn.started"
    ]


# -- the API process at rest


@dataclass(frozen=True, slots=True)
class Idle:
    fresh_rss_mib: float
    dev_rss_mib: float
    """The same with the developer's tools installed: structlog imports rich where it finds it."""
    used_rss_mib: float
    modules: int


async def watch_idle_api(product: Product, *, turns: int = 10) -> Idle:
    """Memory of a fresh API process, and what it has imported once it has been used."""
    api = product.start_api()
    await api.ready()
    dev = psutil.Process(api.pid).memory_info().rss
    await product.let_go(api)
    absent = product.directory / "absent"
    absent.mkdir(exist_ok=True)
    (absent / "rich.py").write_text('raise ImportError("not part of an installation")\n')
    api = product.start_api({"PYTHONPATH": str(absent)})
    await api.ready()
    fresh = psutil.Process(api.pid).memory_info().rss
    await _use(Client(api.port, product.api_key), turns)
    used = psutil.Process(api.pid).memory_info().rss
    await product.let_go(api)

    api = product.start_api(arguments=["-X", "importtime", "-m", "api"])
    await api.ready()
    await _use(Client(api.port, product.api_key), 1)
    await product.let_go(api)
    lines = [line for line in api.log.read_text().splitlines() if line.startswith("import time:")]
    modules = {line.rsplit("|", 1)[1].strip() for line in lines[1:]}
    assert "api.app" in modules
    roots = {module.partition(".")[0] for module in modules}
    assert not roots & {"pydantic_ai", "pydantic_graph", "openai", "anthropic", "google", "worker"}
    assert not roots & {"jwt", "cryptography"}, "for deployments with an identity provider alone"
    return Idle(fresh / 2**20, dev / 2**20, used / 2**20, len(modules))


async def _use(client: Client, turns: int) -> None:
    async def once() -> None:
        turn = await submit(client, {"deltas": 5, "intervalMs": 1})
        await follow(client, turn["id"])
        await await_end(client, turn["id"])

    await all_of(once() for _ in range(turns))
    await make_thread(client)
