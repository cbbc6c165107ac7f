"""The systems under load, each as its own processes on the same Postgres and the same Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson
import psutil

from benchmarks.load import build_request
from deploy.configuration import free_port
from deploy.embedded.valkey import find_binary
from shared.postgres.migrate import migrate
from shared.postgres.pool import Database, connect
from shared.service.api_keys import create_api_key, create_tenant, create_user

PEPPER = "benchmark-pepper-0123456789"
START_PATIENCE_S = 20.0


@dataclass
class Servers:
    """Addresses and process ids of the servers that both sides use."""

    dsn: str
    redis_port: int
    pids: dict[str, int] = field(default_factory=dict)


class System(Protocol):
    """One side of a comparison."""

    name: str
    port: int
    delta: bytes

    @property
    def pids(self) -> dict[str, int]: ...

    def stream_request(self, deltas: int) -> bytes: ...
    def submit_request(self, deltas: int) -> bytes: ...
    def get_request(self, turn_id: str) -> bytes: ...
    def submit_one(self, deltas: int) -> str: ...


@contextlib.contextmanager
def run_valkey(directory: Path) -> Iterator[tuple[int, int]]:
    """A Valkey on loopback TCP without persistence; yields its port and process id."""
    port = free_port()
    command = [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(
        [*command, "--appendonly", "no", "--dir", str(directory)], stdout=subprocess.DEVNULL
    )
    try:
        _await_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


class _Processes:
    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def start(self, name: str, command: list[str], env: dict[str, str], cwd: Path) -> None:
        self._running[name] = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=cwd, stdout=subprocess.DEVNULL
        )

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Turnkeep:
    """One API process and one worker, with everything that the product does by default."""

    name = "turnkeep"
    delta = b'"text-delta"'

    def __init__(self, port: int, key: str, threads: list[str], processes: _Processes) -> None:
        self.port = port
        self._headers = (("authorization", f"Bearer {key}"),)
        self._threads = itertools.cycle(threads)
        self._processes = processes
        self._numbers = itertools.count()

    @property
    def pids(self) -> dict[str, int]:
        return self._processes.pids

    def _body(self, deltas: int) -> bytes:
        # A key of its own for every turn: what is measured is the system, not one thread's queue.
        return orjson.dumps(
            {
                "message": "hello world, tell me a story",
                "concurrencyKey": f"bench-{next(self._numbers)}",
                "settings": {"script": {"deltas": deltas, "intervalMs": 0}},
            }
        )

    def stream_request(self, deltas: int) -> bytes:
        path = f"/api/v1/chat/threads/{next(self._threads)}/turns/stream"
        return build_request("POST", path, self._body(deltas), self._headers)

    def submit_request(self, deltas: int) -> bytes:
        path = f"/api/v1/chat/threads/{next(self._threads)}/turns"
        return build_request("POST", path, self._body(deltas), self._headers)

    def get_request(self, turn_id: str) -> bytes:
        return build_request("GET", f"/api/v1/chat/turns/{turn_id}", headers=self._headers)

    def submit_one(self, deltas: int) -> str:
        path = f"/api/v1/chat/threads/{next(self._threads)}/turns"
        return _post(self.port, path, self._body(deltas), dict(self._headers))


class Baseline:
    """A plain Starlette + arq + asyncpg service, for comparison; see its own README."""

    name = "baseline"
    delta = b'"delta"'

    def __init__(self, port: int, processes: _Processes) -> None:
        self.port = port
        self._processes = processes

    @property
    def pids(self) -> dict[str, int]:
        return self._processes.pids

    def stream_request(self, deltas: int) -> bytes:
        return build_request("POST", "/turns?stream=1", b'{"input":"hello world, tell me a story"}')

    def submit_request(self, deltas: int) -> bytes:
        return build_request("POST", "/turns", b'{"input":"hello world, tell me a story"}')

    def get_request(self, turn_id: str) -> bytes:
        return build_request("GET", f"/turns/{turn_id}")

    def submit_one(self, deltas: int) -> str:
        return _post(self.port, "/turns", b'{"input":"hello"}', {})


@contextlib.contextmanager
def run_turnkeep(servers: Servers, root: Path) -> Iterator[Turnkeep]:
    """Starts the product on the servers, with a tenant and threads of its own."""
    key, threads = asyncio.run(_prepare(servers.dsn))
    port = free_port()
    env = {
        "TURNKEEP_DATABASE_URL": servers.dsn,
        "TURNKEEP_REDIS_URL": f"redis://127.0.0.1:{servers.redis_port}/0",
        "TURNKEEP_KEY_PEPPER": PEPPER,
        "TURNKEEP_PORT": str(port),
        "TURNKEEP_LOG_LEVEL": "warning",
        "TURNKEEP_DRAIN_S": "2",
    }
    processes = _Processes()
    try:
        processes.start("worker", [sys.executable, "-m", "worker"], env, root)
        processes.start("api", [sys.executable, "-m", "api"], env, root)
        _await_port(port)
        time.sleep(1.5)  # the worker imports and makes the first generation
        yield Turnkeep(port, key, threads, processes)
    finally:
        processes.stop()


@contextlib.contextmanager
def run_baseline(servers: Servers, folder: Path, deltas: int) -> Iterator[Baseline]:
    """Starts the baseline in `folder` with its quickest poll."""
    asyncio.run(_drop_baseline(servers.dsn))
    port = free_port()
    env = {
        "PG_DSN": servers.dsn,
        "RPORT": str(servers.redis_port),
        "POLL": "0.01",
        "DELTAS": str(deltas),
    }
    server = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    processes = _Processes()
    try:
        processes.start("worker", [sys.executable, "worker.py"], env, folder)
        time.sleep(1.5)  # its worker makes the table
        quiet = ["--no-access-log", "--log-level", "error"]
        processes.start("api", [*server, *quiet], env, folder)
        _await_port(port)
        time.sleep(0.5)
        yield Baseline(port, processes)
    finally:
        processes.stop()


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """User and system time of each process and its children so far."""
    spent = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        times = [member.cpu_times() for member in family]
        spent[name] = sum(t.user + t.system for t in times)
    return spent


async def _prepare(dsn: str) -> tuple[str, list[str]]:
    await migrate(dsn)
    async with Database(dsn, size=1) as database:
        tenant_id = await create_tenant(database, "Benchmark")
        user_id = await create_user(database, tenant_id, "bench@localhost", "Benchmark")
        key = await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name="bench", pepper=PEPPER.encode()
        )
    async with connect(dsn) as connection:
        rows = await connection.fetch(
            "insert into threads (id, tenant_id, user_id)"
            " select gen_random_uuid(), $1, $2 from generate_series(1, 256) returning id",
            tenant_id,
            user_id,
        )
    return key, [str(row["id"]) for row in rows]


async def _drop_baseline(dsn: str) -> None:
    async with connect(dsn) as connection:
        await connection.execute("drop table if exists turns cascade")


def _post(port: int, path: str, body: bytes, headers: dict[str, str]) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        body,
        {"content-type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        turn_id: str = orjson.loads(answer.read())["id"]
        return turn_id


def _await_port(port: int) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
