"""Looks at the product from beside: what Postgres committed, what Redis ran, what is left.

Nothing here is part of the product. The trigger writes a row in the very transaction that changes a
turn, so only commits are recorded, and workers that die leave their claims behind. It runs as its
owner: the role that the product takes for a tenant may not write here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

import asyncpg
import psutil

from shared.redis.connection import RedisConnection
from shared.redis.event_log import parse_message
from shared.redis.keys import FEEDS, Keys
from shared.redis.subscriber import Subscriber
from tests.acceptance.client import Client
from tests.chaos import history as h

_PAGE: Final = 5_000
_CLOCK_TRIES: Final = 20
_IDLE_IN_TRANSACTION_S: Final = 1.0
_SCAN_COUNT: Final = 1_000
_SAMPLE: Final = re.compile(r"^((?:turnkeep|process)_\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)

REFUSED_WRITES: Final = tuple(
    f'turnkeep_log_writes_total{{word="{word}"}}' for word in ("FENCED", "CLOSED", "STALEGEN")
)
REFUSED_COMMITS: Final = "turnkeep_fenced_commits_total"
HELD: Final = ("turnkeep_open_streams", "turnkeep_held_turns")
OPEN_FILES: Final = "process_open_fds"

# -- transitions

_LOCK_TIMEOUT: Final = "set lock_timeout = '5s';"  # whoever waits for a lock makes others wait
_INSTALL: Final = """
create table if not exists chaos_transitions (
    id bigint generated always as identity primary key,
    turn_id uuid not null,
    tenant_id uuid not null,
    concurrency_key text not null,
    max_running integer not null,
    old_status text,
    new_status text not null,
    old_attempt integer not null,
    attempt integer not null,
    old_worker_id text,
    worker_id text,
    slot integer,
    old_crash_count integer not null,
    crash_count integer not null,
    session text not null,
    txid bigint not null,
    at timestamptz not null
);

create or replace function chaos_note_transition() returns trigger
language plpgsql security definer set search_path from current as $$
declare
    before turns;
begin
    if tg_op = 'UPDATE' then
        before := old;
    end if;
    insert into chaos_transitions (
        turn_id, tenant_id, concurrency_key, max_running, old_status, new_status, old_attempt,
        attempt, old_worker_id, worker_id, slot, old_crash_count, crash_count, session, txid, at
    ) values (
        new.id, new.tenant_id, new.concurrency_key, new.max_running, before.status, new.status,
        coalesce(before.attempt, 0), new.attempt, before.worker_id, new.worker_id, new.slot,
        coalesce(before.crash_count, 0), new.crash_count,
        pg_backend_pid() || ':' || coalesce(inet_client_port(), 0),
        pg_current_xact_id()::text::bigint, clock_timestamp()
    );
    return null;
end $$;

create or replace trigger chaos_inserted after insert on turns
for each row when ({is_ours})
execute function chaos_note_transition();
create or replace trigger chaos_updated after update of status, attempt on turns
for each row when (
    (old.status is distinct from new.status or old.attempt is distinct from new.attempt)
    and {is_ours}
)
execute function chaos_note_transition();
"""
_REMOVE: Final = """
drop trigger if exists chaos_inserted on turns;
drop trigger if exists chaos_updated on turns;
drop function if exists chaos_note_transition;
drop table if exists chaos_transitions;
"""


async def install_trigger(connection: Any, tenants: Iterable[UUID] = ()) -> None:
    """Records every change of a turn's status or attempt from now on; installing again is fine.

    Of these tenants' turns, or of all.
    Within one row `id` follows its lock. Between rows, what was committed before a statement began
    has a lower one: that is the `order` of a `Transition`, and no clock is in it.
    """
    ours = ", ".join(f"'{UUID(int=tenant.int)}'" for tenant in tenants)
    is_ours = f"new.tenant_id in ({ours})" if ours else "true"
    await connection.execute(_LOCK_TIMEOUT + _INSTALL.format(is_ours=is_ours))


async def remove_trigger(connection: Any) -> None:
    """Removes the trigger and what it recorded."""
    await connection.execute(_LOCK_TIMEOUT + _REMOVE)


async def sample_clock(connection: Any) -> h.ClockSample:
    """Postgres' clock beside ours: the quickest of some round trips, so within half of it."""
    samples = []
    for _ in range(_CLOCK_TRIES):
        began = h.now()
        server_ns = await connection.fetchval(
            "select (extract(epoch from clock_timestamp()) * 1000000)::bigint * 1000"
        )
        ended = h.now()
        samples.append(
            h.ClockSample(
                at=(began + ended) // 2, server_ns=server_ns, uncertainty_ns=(ended - began) // 2
            )
        )
    return min(samples, key=lambda sample: sample.uncertainty_ns)


@dataclass(frozen=True, slots=True)
class ClockMap:
    """Postgres' clock put on CLOCK_MONOTONIC, from a sample at the start and one at the end.

    Linear between and beyond them. A clock that jumped meanwhile shows in `drift_ns`.
    """

    first: h.ClockSample
    last: h.ClockSample

    def to_monotonic(self, server_ns: int) -> int:
        """The same moment on our clock."""
        span = self.last.server_ns - self.first.server_ns
        since = server_ns - self.first.server_ns
        if span <= 0:
            return self.first.at + since
        return self.first.at + since * (self.last.at - self.first.at) // span

    @property
    def drift_ns(self) -> int:
        """How much further one clock went than the other."""
        return (self.last.server_ns - self.first.server_ns) - (self.last.at - self.first.at)


async def read_transitions(
    connection: Any, clock: ClockMap, *, after: int = 0
) -> AsyncIterator[h.Transition]:
    """What the trigger has recorded, in order. `after` is the `order` of the last one known."""
    while True:
        rows = await connection.fetch(
            "select *, (extract(epoch from at) * 1000000)::bigint * 1000 as at_ns"
            " from chaos_transitions where id > $1 order by id limit $2",
            after,
            _PAGE,
        )
        for row in rows:
            yield _transition(row, clock)
        if len(rows) < _PAGE:
            return
        after = rows[-1]["id"]


def _transition(row: Any, clock: ClockMap) -> h.Transition:
    return h.Transition(
        at=clock.to_monotonic(row["at_ns"]),
        order=row["id"],
        turn=str(row["turn_id"]),
        tenant=str(row["tenant_id"]),
        concurrency_key=row["concurrency_key"],
        limit=row["max_running"],
        old=row["old_status"] or "",
        new=row["new_status"],
        old_attempt=row["old_attempt"],
        attempt=row["attempt"],
        old_worker=row["old_worker_id"] or "",
        worker=row["worker_id"] or "",
        slot=row["slot"] or 0,
        old_crash_count=row["old_crash_count"],
        crash_count=row["crash_count"],
        session=row["session"],
        txid=row["txid"],
    )


# -- the final scan

_SCAN: Final = """
select
    t.accept_seq, t.id, t.tenant_id, t.user_id, t.status::text, t.idempotency_key,
    t.concurrency_key, t.attempt, t.crash_count, t.error_code, said.text, said.questions,
    said.commits, t.parked_count,
    coalesce(
        (
            select string_agg(
                a.tool_call_id || case when a.approved then '=yes' else '=no' end, ' '
                order by a.round, a.place
            )
            from turn_approvals a
            where a.turn_id = t.id and a.approved is not null
        ),
        ''
    ) as decisions
from turns t
cross join lateral (
    select
        coalesce(string_agg(m.content, '' order by m.seq) filter (where m.role = 'assistant'), '')
            as text,
        count(*) filter (where m.role = 'user') as questions,
        count(distinct m.created_at) filter (where m.role <> 'user') as commits
    from messages m
    where m.thread_id = t.thread_id and m.turn_seq = t.accept_seq and m.superseded_at is null
) said
where t.accept_seq > $1 and ($3::uuid[] is null or t.thread_id = any($3))
order by t.accept_seq
limit $2
"""
_BILLS: Final = """
select u.turn_id, u.input_tokens, u.output_tokens
from usage u
where $1::uuid[] is null
    or u.turn_id = any(array(select id from turns where thread_id = any($1)))
"""


async def scan_turns(
    connection: Any, threads: list[UUID] | None = None
) -> AsyncIterator[h.Scan | h.FinalState | h.Usage]:
    """Every row of `turns` with what hangs on it, every row of `usage`, and that all were read.

    Of these threads alone, when they are named.
    """
    at, after, turns = h.now(), 0, 0
    while True:
        rows = await connection.fetch(_SCAN, after, _PAGE, threads)
        for row in rows:
            yield _final(row, at)
        turns += len(rows)
        if len(rows) < _PAGE:
            break
        after = rows[-1]["accept_seq"]
    bills = await connection.fetch(_BILLS, threads)
    for bill in bills:
        yield h.Usage(
            at=at,
            turn=str(bill["turn_id"]),
            input_tokens=bill["input_tokens"],
            output_tokens=bill["output_tokens"],
        )
    yield h.Scan(at=at, turns=turns)


def _final(row: Any, at: int) -> h.FinalState:
    return h.FinalState(
        at=at,
        turn=str(row["id"]),
        tenant=str(row["tenant_id"]),
        status=row["status"],
        user=str(row["user_id"]),
        key=row["idempotency_key"] or "",
        concurrency_key=row["concurrency_key"],
        attempt=row["attempt"],
        text=row["text"],
        questions=row["questions"],
        answer_commits=row["commits"],
        crash_count=row["crash_count"],
        error_code=row["error_code"] or "",
        parked_count=row["parked_count"],
        decisions=row["decisions"],
    )


async def find_overdue(connection: Any) -> list[h.Overdue]:
    """Turns that are `running` though their lease has lapsed; to be asked again and again."""
    rows = await connection.fetch(
        "select id, extract(epoch from clock_timestamp() - lease_until)::double precision as lapsed"
        " from turns where status = 'running' and lease_until < clock_timestamp()"
    )
    at = h.now()
    return [h.Overdue(at=at, turn=str(row["id"]), lapsed_s=row["lapsed"]) for row in rows]


# -- what is left


@dataclass(frozen=True, slots=True)
class Baseline:
    """Open files of each process before the run, by the name its residue will have."""

    open_files: dict[str, float]


async def take_baseline(metrics_ports: dict[str, int]) -> Baseline:
    """Before the load; `metrics_ports` names the API's and the workers' processes."""
    return Baseline(
        {name: (await scrape(port)).get(OPEN_FILES, 0.0) for name, port in metrics_ports.items()}
    )


async def find_residue(
    connection: Any,
    redis: RedisConnection,
    metrics_ports: dict[str, int],
    baseline: Baseline,
    *,
    redis_prefix: str = "tk",
    spare_files: int = 8,
) -> list[h.Residue]:
    """What is left at quiescence. Processes that were replaced have no baseline of files.

    `spare_files`: pools open their connections when they are first needed, and keep them.
    """
    at = h.now()
    idle = await connection.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and state like 'idle in transaction%'"
        " and state_change < clock_timestamp() - make_interval(secs => $1)",
        _IDLE_IN_TRANSACTION_S,
    )
    immortal = await find_keys_without_ttl(redis, redis_prefix)
    found = [
        h.Residue(at=at, what="sessions idle in a transaction", found=idle),
        h.Residue(
            at=at,
            what="Redis keys without a TTL",
            found=len(immortal),
            detail=", ".join(immortal[:5]),
        ),
    ]
    for name, port in metrics_ports.items():
        figures = await scrape(port)
        found += [
            h.Residue(at=at, what=f"{figure} of {name}", found=figures.get(figure, 0.0))
            for figure in HELD
        ]
        if name in baseline.open_files:
            allowed = baseline.open_files[name] + spare_files
            files = figures.get(OPEN_FILES, 0.0)
            found.append(
                h.Residue(at=at, what=f"open files of {name}", found=files, allowed=allowed)
            )
    return found


async def find_keys_without_ttl(redis: RedisConnection, prefix: str) -> list[str]:
    """Keys of the product that live for ever; arq's queue of background jobs has no TTL."""
    immortal = set()
    cursor = b"0"
    while True:
        cursor, page = await redis.call(
            "SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", _SCAN_COUNT
        )
        for key in page:
            if await redis.call("PTTL", key) == -1 and not key.endswith(b":jobs"):
                immortal.add(key.decode())
        if cursor == b"0":
            return sorted(immortal)


# -- figures


async def scrape(port: int) -> dict[str, float]:
    """All samples of a process' /metrics, by name and labels.

    Raises:
        OSError: nobody answers there.
    """
    answer = await Client(port, None).get("/metrics")
    return {name: float(value) for name, value in _SAMPLE.findall(answer.body.decode())}


async def sample_refusals(workers: dict[str, int]) -> list[h.Sample]:
    """How many writes and commits of attempts that were over each worker was refused so far.

    A worker that is killed takes its counts with it; one that does not answer is left out.
    """
    samples = []
    for name, port in workers.items():
        try:
            figures = await scrape(port)
        except OSError:
            continue
        samples += [
            h.Sample(at=h.now(), subject=name, figure=figure, value=figures.get(figure, 0.0))
            for figure in (*REFUSED_WRITES, REFUSED_COMMITS)
        ]
    return samples


def sample_process(name: str, pid: int) -> list[h.Sample]:
    """Resident bytes and open files of a process; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        figures = {"rss_bytes": process.memory_info().rss, "open_files": process.num_fds()}
    except psutil.Error:
        return []
    at = h.now()
    return [h.Sample(at=at, subject=name, figure=n, value=float(v)) for n, v in figures.items()]


async def sample_tables(connection: Any) -> list[h.Sample]:
    """Rows that are dead and not yet cleared away, of all tables."""
    dead = await connection.fetchval("select sum(n_dead_tup)::float8 from pg_stat_user_tables")
    return [h.Sample(at=h.now(), subject="postgres", figure="dead_rows", value=dead or 0.0)]


def sample_host() -> list[h.Sample]:
    """How busy the host was since the last time, in percent of all its cores."""
    return [h.Sample(at=h.now(), subject="host", figure="busy", value=psutil.cpu_percent())]


async def sample_redis(redis: RedisConnection) -> list[h.Sample]:
    """Bytes that Redis uses. Raises as `RedisConnection.call`."""
    info: bytes = await redis.call("INFO", "memory")
    match = re.search(rb"used_memory:(\d+)", info)
    value = float(match[1]) if match else 0.0
    return [h.Sample(at=h.now(), subject="redis", figure="used_bytes", value=value)]


# -- appends


class AppendWatcher:
    """Notes every append that Redis ran, as it is published with it. Use it as `async with`.

    What is appended while the subscription is lost is missed: the order of the rest still tells.
    """

    def __init__(self, redis_url: str, history: h.History, *, prefix: str = "tk") -> None:
        self._subscriber = Subscriber(redis_url)
        self._keys = Keys(prefix)
        self._history = history
        self.noted = 0

    async def __aenter__(self) -> Self:
        await self._subscriber.__aenter__()
        for channel in feed_channels(self._keys):
            self._subscriber.subscribe_soon(channel, self._note)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subscriber.__aexit__()

    def _note(self, message: bytes | None) -> None:
        if message is None:
            return
        turn, _, rest = message.partition(b" ")
        batch = parse_message(rest)
        self.noted += 1
        self._history.append(
            h.Append(
                at=h.now(),
                outcome="ok",
                turn=turn.decode(),
                attempt=batch.attempt,
                first_seq=batch.first_seq,
                count=len(batch.payloads),
            )
        )


def feed_channels(keys: Keys) -> list[str]:
    """All channels on which appends are published."""
    return [keys.feed(UUID(int=number)) for number in range(FEEDS)]


# -- all of it, around a run


@asynccontextmanager
async def observe(
    database_url: str,
    history: h.History,
    *,
    tenants: Iterable[UUID] = (),
    threads: list[UUID] | None = None,
) -> AsyncIterator[h.ClockSample]:
    """Installs the trigger; at the end, adds transitions and the final scan to the history.

    Of these tenants and threads alone, when they are named.
    Leave it at quiescence. Gives the clock's first sample, which is in the history as well.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await install_trigger(connection, tenants)
        first = await sample_clock(connection)
        history.append(first)
    finally:
        await connection.close()
    yield first
    connection = await asyncpg.connect(database_url)  # the first would not outlive a restart
    try:
        last = await sample_clock(connection)
        history.append(last)
        async for transition in read_transitions(connection, ClockMap(first, last)):
            history.append(transition)
        async for row in scan_turns(connection, threads):
            history.append(row)
    finally:
        await connection.close()
    history.flush()
