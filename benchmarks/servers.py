"""The Postgres and the Valkey that both sides share, and what processes and servers have spent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil
import redis

from deploy.configuration import free_port
from deploy.embedded.postgres import PORT, USER, EmbeddedPostgres
from deploy.embedded.tether import tethered
from deploy.embedded.valkey import find_binary

START_PATIENCE_S = 20.0


@dataclass
class Servers:
    """Addresses and process ids of the servers, and fresh databases on them."""

    socket_dir: str
    redis_port: int
    pids: dict[str, int]
    home: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def dsn(self, database: str) -> str:
        host = quote(self.socket_dir, safe="")
        return f"postgresql://{USER}@/{database}?host={host}&port={PORT}"

    def make_database(self) -> str:
        """The DSN of a new, empty database."""
        name = f"bench_{next(self._numbers)}"
        # A run that was killed leaves its own behind in a cluster that is kept.
        execute(self.dsn("postgres"), f"drop database if exists {name} with (force)")
        execute(self.dsn("postgres"), f"create database {name}")
        return self.dsn(name)

    def drop_database(self, dsn: str) -> None:
        name = dsn.rpartition("/")[2].partition("?")[0]
        execute(self.dsn("postgres"), f"drop database {name} with (force)")

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.redis_port)

    def redis_info(self, section: str) -> dict[str, Any]:
        info: dict[str, Any] = self.redis.info(section)  # type: ignore[assignment]  # not awaitable
        return info


@contextlib.contextmanager
def run_servers(home: Path) -> Iterator[Servers]:
    """Postgres with fsync and a Valkey without persistence, both gone at the end."""
    with EmbeddedPostgres(home / "postgres") as postgres, _run_valkey(home) as (port, pid):
        pids = {"redis": pid}
        if postgres.process is not None:
            pids["postgres"] = postgres.process.pid
        yield Servers(str(postgres.socket_dir), port, pids, home)


@contextlib.contextmanager
def _run_valkey(directory: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "no", "--dir", str(directory), "--maxclients", "30000"]
    process = subprocess.Popen(
        tethered(command, signal.SIGTERM), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        await_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def await_port(port: int, patience_s: float = START_PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def fetch(dsn: str, query: str, *args: Any) -> list[Any]:
    """Rows of one query over a connection of its own."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(query, *args))
        finally:
            await connection.close()

    return asyncio.run(ask())


def execute(dsn: str, statement: str) -> None:
    """Runs statements over a connection of its own."""

    async def ask() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(ask())


@dataclass(frozen=True)
class Spent:
    """What processes and servers have spent until now."""

    cpu_s: dict[str, float]
    commits: int
    transaction_ids: int
    wal_bytes: int
    wal_syncs: int
    redis_commands: int


def read_spent(dsn: str, servers: Servers, pids: dict[str, int]) -> Spent:
    row = fetch(
        dsn,
        "select xact_commit as commits,"
        " pg_snapshot_xmax(pg_current_snapshot())::text::bigint as ids,"
        " (pg_current_wal_insert_lsn() - '0/0')::bigint as wal,"
        " (select coalesce(sum(fsyncs), 0)::bigint from pg_stat_io where object = 'wal') as syncs"
        " from pg_stat_database where datname = current_database()",
    )[0]
    commands = servers.redis_info("stats")["total_commands_processed"]
    cpu_s = {name: _cpu_s(pid) for name, pid in {**pids, **servers.pids}.items()}
    return Spent(cpu_s, row["commits"], row["ids"], row["wal"], row["syncs"], commands)


def per_turn(before: Spent, after: Spent, turns: int) -> dict[str, float]:
    """What each of `turns` cost."""
    turns = max(turns, 1)
    figures = {
        f"CPU µs/turn {name}": (spent - before.cpu_s[name]) / turns * 1e6
        for name, spent in after.cpu_s.items()
    }
    figures["CPU µs/turn all"] = sum(figures.values())
    figures["Postgres commits/turn"] = (after.commits - before.commits) / turns
    figures["Postgres writing transactions/turn"] = (
        after.transaction_ids - before.transaction_ids
    ) / turns
    figures["WAL bytes/turn"] = (after.wal_bytes - before.wal_bytes) / turns
    figures["WAL fsyncs/turn"] = (after.wal_syncs - before.wal_syncs) / turns
    figures["Redis commands/turn"] = (after.redis_commands - before.redis_commands) / turns
    return figures


def memory_mb(pids: dict[str, int]) -> dict[str, float]:
    """Resident memory of each process with its children; Postgres shares pages, so its share."""
    return {
        f"RSS MB {name}": sum(_memory(member, shared=name == "postgres") for member in _family(pid))
        / 1e6
        for name, pid in pids.items()
    }


def _memory(process: psutil.Process, *, shared: bool) -> int:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        if shared:
            share: int = process.memory_full_info().pss
            return share
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.memory_info().rss
    return 0


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    """User and system time of a process and its children so far."""
    total = 0.0
    for member in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total
