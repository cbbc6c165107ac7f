"""The systems under load, each as its own processes on the same Postgres and the same Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from benchmarks.answers import Answer, Ask
from benchmarks.baseline.configuration import DDL
from benchmarks.servers import Servers, await_port, execute, fetch
from deploy.configuration import free_port
from deploy.embedded.tether import tethered
from shared.postgres.migrate import migrate
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user

ROOT = Path(__file__).resolve().parent.parent
OUR_BASELINE = Path(__file__).with_name("baseline")
PEPPER = "benchmark-pepper-0123456789"
THREADS = 20_000
STOP_PATIENCE_S = 8.0
READY_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Options:
    """How a side is started for a scenario; None leaves its own default."""

    deltas: int = 50
    interval_ms: int = 0
    concurrency: int | None = None
    workers: int = 1
    api_processes: int = 1
    threads: int = THREADS
    env: tuple[tuple[str, str], ...] = ()
    has_backlog: bool = False
    """There are turns that never end: the queue does not empty."""


class System(Protocol):
    """One running side of a comparison."""

    name: str
    port: int
    dsn: str
    servers: Servers

    @property
    def pids(self) -> dict[str, int]: ...

    def stream_ask(self) -> Ask: ...
    def submit_ask(self) -> Ask: ...
    def get_asks(self, run_name: str) -> dict[str, Ask]: ...
    def cancel_ask(self, turn_id: str) -> Ask: ...
    def count_turns(self) -> dict[str, int]: ...
    def count_queued(self) -> int: ...


class _Processes:
    """Processes of one side: they die with the kit, and miss what the terminal sends it."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def start(self, name: str, command: list[str], env: dict[str, str], cwd: Path) -> None:
        with (self._logs / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                tethered(command, signal.SIGKILL),
                env={**os.environ, **env},
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def last_words(self) -> str:
        """The end of every log, for whoever has to find out why a start has failed."""
        return "\n".join(
            f"{name}: {(self._logs / f'{name}.log').read_text(errors='replace')[-2000:]}"
            for name in self._running
        )

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Turnkeep:
    """API and worker processes, as many as `options` says, with all that is on by default."""

    port: int
    dsn: str
    servers: Servers
    key: str
    tenant_id: UUID
    threads: tuple[str, ...]
    options: Options
    processes: _Processes = field(repr=False)
    name: str = "turnkeep"

    @property
    def pids(self) -> dict[str, int]:
        return self.processes.pids

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    def stream_ask(self) -> Ask:
        texts = tuple(f'w{number} "' for number in range(self.options.deltas))
        return self.turn_ask("/turns/stream", Answer(200, '"delta":"', texts, "data: [DONE]"))

    def submit_ask(self) -> Ask:
        return self.turn_ask("/turns", Answer(202, end='"status":"'))

    def turn_ask(self, tail: str, answer: Answer, script: dict[str, Any] | None = None) -> Ask:
        """A POST of a turn; its script is that of the options unless one is given."""
        script = script or {"deltas": self.options.deltas, "intervalMs": self.options.interval_ms}
        # A key of its own for every turn: what is measured is the system, not one thread's queue.
        return Ask(
            "POST",
            "/api/v1/chat/threads/",
            answer,
            ids=self.threads,
            path_tail=tail,
            headers=self.headers,
            body='{"message":"hello world, tell me a story","concurrencyKey":"bench-',
            body_tail=f'","settings":{{"script":{json.dumps(script)}}}}}',
        )

    def get_asks(self, run_name: str) -> dict[str, Ask]:
        """Gets of turns made for it: a turn that never speaks is ended after a minute."""
        hanging = self.turn_ask("/turns", Answer(202), {"deltas": 1, "hangAfter": 1})
        live = self.submit_one(f"live-{run_name}", hanging)
        finished = self.submit_one(f"finished-{run_name}", self.submit_ask())
        time.sleep(1.0)
        url = f"http://127.0.0.1:{self.port}/api/v1/chat/turns/{finished}"
        asked = urllib.request.Request(url, headers=dict(self.headers))
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - loopback
            tag = str(answer.headers["etag"])
        return {
            "finished": self._get_ask(finished, Answer(200, end='"completed"')),
            "live": self._get_ask(live, Answer(200, end='"running"')),
            "finished, 304": self._get_ask(finished, Answer(304), (("if-none-match", tag),)),
        }

    def _get_ask(
        self, turn_id: str, answer: Answer, headers: tuple[tuple[str, str], ...] = ()
    ) -> Ask:
        path = f"/api/v1/chat/turns/{turn_id}"
        return Ask("GET", path, answer, headers=(*self.headers, *headers))

    def cancel_ask(self, turn_id: str) -> Ask:
        path = f"/api/v1/chat/turns/{turn_id}/cancel"
        return Ask("POST", path, headers=self.headers, body="{}")

    def events_request(self, turn_id: str) -> bytes:
        """A GET of a turn's events in the native protocol."""
        path = f"/api/v1/chat/turns/{turn_id}/events"
        return Ask("GET", path, headers=self.headers).render(0, "")

    def submit_one(self, name: str, ask: Ask) -> str:
        """Submits one turn and returns its id."""
        return post(self.port, ask.render(0, name))

    def count_turns(self) -> dict[str, int]:
        rows = fetch(
            self.dsn,
            "select status::text, count(*) from turns where tenant_id = $1 group by 1",
            self.tenant_id,
        )
        return {row["status"]: row["count"] for row in rows}

    def count_queued(self) -> int:
        if self.options.has_backlog:
            return 0
        return count_members(self.servers, "tk:*:line:*", "tk:*:busy:*", "tk:*:ready")


@dataclass
class Baseline:
    """A plain Starlette + arq + asyncpg service, for comparison; see `benchmarks/baseline`."""

    port: int
    dsn: str
    servers: Servers
    options: Options
    processes: _Processes = field(repr=False)
    name: str = "baseline"

    @property
    def pids(self) -> dict[str, int]:
        return self.processes.pids

    def stream_ask(self) -> Ask:
        texts = tuple(f'{number}, "text": " tok{number}"' for number in range(self.options.deltas))
        return self._turn_ask("/turns?stream=1", Answer(200, '"seq": ', texts, '"done"'))

    def submit_ask(self) -> Ask:
        return self._turn_ask("/turns", Answer(202, end='"queued"'))

    def _turn_ask(self, path: str, answer: Answer) -> Ask:
        return Ask("POST", path, answer, body='{"input":"hello world, tell me a story"}')

    def get_asks(self, run_name: str) -> dict[str, Ask]:
        turn_id = post(self.port, self.submit_ask().render(0, run_name))
        time.sleep(1.0)
        right = Answer(200, end='"completed"')
        return {
            "finished": Ask("GET", f"/turns/{turn_id}", right),
            "finished, its Redis copy": Ask("GET", f"/rturns/{turn_id}", right),
        }

    def cancel_ask(self, turn_id: str) -> Ask:
        return Ask("POST", f"/turns/{turn_id}/cancel", body="{}")

    def count_turns(self) -> dict[str, int]:
        rows = fetch(self.dsn, "select status, count(*) from turns group by 1")
        return {row["status"]: row["count"] for row in rows}

    def count_queued(self) -> int:
        return count_members(self.servers, "arq:queue", "arq:in-progress:*", "arq:abort")


@dataclass(frozen=True)
class Side:
    """How to start one side: `start` gives a running system on a fresh database."""

    name: str
    servers: Servers
    python: str = sys.executable
    folder: Path = OUR_BASELINE

    @contextlib.contextmanager
    def start(self, options: Options | None = None, dsn: str | None = None) -> Iterator[System]:
        """A running side; `dsn` names a database that is there already and stays."""
        options = options or Options()
        fresh = dsn is None
        dsn = dsn or self.servers.make_database()
        self.servers.redis.flushall()
        processes = _Processes(self.servers.home)
        try:
            try:
                if self.name == "turnkeep":
                    system: System = self._start_turnkeep(dsn, options, processes)
                else:
                    system = self._start_baseline(dsn, options, processes)
            except OSError:
                sys.stderr.write(processes.last_words() + "\n")
                raise
            yield system
        finally:
            processes.stop()
            if fresh:
                self.servers.drop_database(dsn)

    def _start_turnkeep(self, dsn: str, options: Options, processes: _Processes) -> Turnkeep:
        key, tenant_id, threads = _prepare(dsn, options.threads)
        port = free_port()
        env = {
            "TURNKEEP_DATABASE_URL": dsn,
            "TURNKEEP_REDIS_URL": f"redis://127.0.0.1:{self.servers.redis_port}/0",
            "TURNKEEP_KEY_PEPPER": PEPPER,
            "TURNKEEP_PORT": str(port),
            "TURNKEEP_LOG_LEVEL": "warning",
            "TURNKEEP_DRAIN_S": "2",
            "TURNKEEP_API_PROCESSES": str(options.api_processes),
            # Checked as always; but a scenario is to fill the queue as far as it likes.
            "TURNKEEP_MAX_QUEUED_PER_KEY": "10000000",
            "TURNKEEP_MAX_QUEUED_PER_TENANT": "10000000",
            "TURNKEEP_MAX_QUEUED": "10000000",
            "TURNKEEP_MAX_STREAMS_PER_KEY": "0",
            **dict(options.env),
        }
        if options.concurrency is not None:
            env["TURNKEEP_WORKER_CONCURRENCY"] = str(options.concurrency)
        for number in range(options.workers):
            processes.start(f"worker{number or ''}", [self.python, "-m", "worker"], env, ROOT)
        processes.start("api", [self.python, "-m", "api"], env, ROOT)
        await_port(port)
        system = Turnkeep(
            port, dsn, self.servers, key, tenant_id, tuple(threads), options, processes
        )
        if options.workers:
            one_delta = {"deltas": 1, "intervalMs": 0}
            _await_worker(system, system.turn_ask("/turns", Answer(202), one_delta))
        return system

    def _start_baseline(self, dsn: str, options: Options, processes: _Processes) -> Baseline:
        package, folder = (
            ("benchmarks.baseline.", ROOT) if self.folder == OUR_BASELINE else ("", self.folder)
        )
        execute(dsn, DDL)  # its worker makes the table, but there may be no worker
        port = free_port()
        env = {
            "PG_DSN": dsn,
            "RPORT": str(self.servers.redis_port),
            "POLL": "0.01",
            "DELTAS": str(options.deltas),
            "GAP": str(options.interval_ms / 1000),
            "MAX_JOBS": str(options.concurrency or 100),
        }
        server = [self.python, "-m", "uvicorn", f"{package}app:app", "--port", str(port)]
        for number in range(options.workers):
            command = [self.python, "-m", f"{package}worker"]
            processes.start(f"worker{number or ''}", command, env, folder)
        how = ["--no-access-log", "--log-level", "error", "--workers", str(options.api_processes)]
        processes.start("api", [*server, *how], env, folder)
        await_port(port)
        system = Baseline(port, dsn, self.servers, options, processes)
        if options.workers:
            _await_worker(system, system.submit_ask())
        return system


def _await_worker(system: System, ask: Ask) -> None:
    """A worker is ready when it has begun a turn."""
    post(system.port, ask.render(0, "first"))
    deadline = time.monotonic() + READY_PATIENCE_S
    while not system.count_turns().keys() & {"running", "completed"}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{system.name}: no worker has run a turn")
        time.sleep(0.1)


def _prepare(dsn: str, threads: int) -> tuple[str, UUID, list[str]]:
    """The schema, and a tenant with a key and threads of its own."""

    async def make_tenant() -> tuple[str, UUID, UUID]:
        await migrate(dsn)
        async with Database(dsn, size=1) as database:
            tenant_id = await create_tenant(database, "Benchmark")
            user_id = await create_user(database, tenant_id, "bench@localhost", "Benchmark")
            key = await create_api_key(
                database, tenant_id=tenant_id, user_id=user_id, name="bench", pepper=PEPPER.encode()
            )
        return key, tenant_id, user_id

    key, tenant_id, user_id = asyncio.run(make_tenant())
    rows = fetch(
        dsn,
        "insert into threads (id, tenant_id, user_id)"
        " select gen_random_uuid(), $1, $2 from generate_series(1, $3::int) returning id",
        tenant_id,
        user_id,
        threads,
    )
    return key, tenant_id, [str(row["id"]) for row in rows]


def count_members(servers: Servers, *patterns: str) -> int:
    """Members of all sets, sorted sets and lists whose keys match; other keys count as one."""
    client, count = servers.redis, 0
    sizes: dict[bytes, Any] = {b"zset": client.zcard, b"set": client.scard, b"list": client.llen}
    for pattern in patterns:
        for key in client.scan_iter(pattern, count=1000):
            size = sizes.get(client.type(key))  # type: ignore[arg-type]  # not awaitable
            count += size(key) if size else 1
    return count


def post(port: int, request: bytes) -> str:
    """Sends one rendered POST and returns the `id` of its answer."""
    head, _, body = request.partition(b"\r\n\r\n")
    method_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    url = f"http://127.0.0.1:{port}{method_line.split()[1]}"
    asked = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - as above
        turn_id: str = json.loads(answer.read())["id"]
        return turn_id
