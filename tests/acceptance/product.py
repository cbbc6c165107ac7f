"""The product as it is deployed: `python -m api` and `python -m worker`, as processes of our own.

Each has its own port, log and process session. Stopping the product ends them in good order and
asserts that nothing is left.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from deploy.configuration import free_port
from deploy.embedded.tether import tethered
from deploy.embedded.valkey import EmbeddedValkey
from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection
from shared.service.accounts import create_api_key, create_tenant, create_user
from tests.acceptance.client import Client
from tests.fixtures.waiting import wait_until

ROOT = Path(__file__).parents[2]
PEPPER = "a pepper for acceptance"
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 12.0
_SAMPLE = re.compile(r"^(turnkeep_\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


class Process:
    """One process of the product; it ends with us, however we end."""

    def __init__(
        self, name: str, arguments: list[str], settings: dict[str, str], log: Path
    ) -> None:
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("TURNKEEP_")}
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                tethered([sys.executable, *arguments], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=inherited | settings | {"PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    def send(self, number: signal.Signals) -> float:
        """Sends a signal; returns when, by the event loop's clock."""
        self._popen.send_signal(number)
        return time.monotonic()

    async def ended(self, patience_s: float = STOP_PATIENCE_S) -> int:
        """The exit code, once there is one."""
        await wait_until(lambda: not self.is_running, f"{self.name} has ended", patience_s)
        code = self.exit_code
        assert code is not None
        return code

    def end_now(self, patience_s: float = STOP_PATIENCE_S) -> int:
        """Ends it in good order if it still runs; by force, and with an error, when it does not."""
        if self.is_running:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            raise AssertionError(f"{self.name} does not end: {self.last_words()}") from None

    def kin(self) -> list[int]:
        """Living processes of its session."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == self.pid and psutil.pid_exists(pid):
                    found.append(pid)
        return found

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def require_running(self) -> None:
        assert self.is_running, f"{self.name} ended with {self.exit_code}: {self.last_words()}"


class Api(Process):
    def __init__(
        self,
        name: str,
        settings: dict[str, str],
        log: Path,
        arguments: list[str] | None = None,
    ) -> None:
        self.port = int(settings["TURNKEEP_PORT"])
        super().__init__(name, arguments or ["-m", "api"], settings, log)

    async def readiness(self) -> int | None:
        """Status of /readyz; None when nobody listens."""
        try:
            return (await Client(self.port, None).get("/readyz")).status
        except OSError:
            return None

    async def ready(self) -> None:
        async def is_ready() -> bool:
            self.require_running()
            return await self.readiness() == 200

        await wait_until(is_ready, f"{self.name} is ready", START_PATIENCE_S)


class Worker(Process):
    def __init__(
        self,
        name: str,
        settings: dict[str, str],
        log: Path,
        arguments: list[str] | None = None,
    ) -> None:
        self.metrics_port = int(settings["TURNKEEP_METRICS_PORT"])
        super().__init__(name, arguments or ["-m", "worker"], settings, log)

    async def ready(self) -> None:
        def is_ready() -> bool:
            self.require_running()
            return b"worker.ready" in self.log.read_bytes()

        await wait_until(is_ready, f"{self.name} is ready", START_PATIENCE_S)

    async def count(self, sample: str) -> float:
        """A counter of its metrics, 0 when it has none of that name and label."""
        return (await self.counters()).get(sample, 0.0)

    async def counters(self) -> dict[str, float]:
        answer = await Client(self.metrics_port, None).get("/metrics")
        return {name: float(value) for name, value in _SAMPLE.findall(answer.body.decode())}


class LeftInDisorder(AssertionError):
    """Processes had to be ended by force, ended with an error, or left others behind."""


class Product:
    """API and workers on the servers given. Every process it ever started is in `started`."""

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        valkey: EmbeddedValkey,
        worker_count: int = 2,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.database_url = database_url
        self.valkey = valkey
        self.worker_count = worker_count
        self.settings = settings or {}
        self.started: list[Process] = []
        self.port = free_port()
        self.apis: list[Api] = []
        self.workers: list[Worker] = []
        self.api_key = ""
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def api(self) -> Api:
        return self.apis[0]

    @property
    def client(self) -> Client:
        return Client(self.port, self.api_key)

    # -- processes

    def start_api(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        arguments: list[str] | None = None,
    ) -> Api:
        """`arguments` of the interpreter, in place of those that run the API."""
        port = port or free_port()
        name = f"api-{len(self.started)}"
        process = Api(
            name,
            self._settings(TURNKEEP_PORT=str(port), **(settings or {})),
            self.directory / f"{name}.log",
            arguments,
        )
        self.started.append(process)
        self.apis.append(process)
        return process

    def start_worker(
        self, settings: Mapping[str, str] | None = None, *, arguments: list[str] | None = None
    ) -> Worker:
        """As `start_api`."""
        name = f"worker-{len(self.started)}"
        process = Worker(
            name,
            self._settings(TURNKEEP_METRICS_PORT=str(free_port()), **(settings or {})),
            self.directory / f"{name}.log",
            arguments,
        )
        self.started.append(process)
        self.workers.append(process)
        return process

    def _settings(self, **settings: str) -> dict[str, str]:
        return {
            "TURNKEEP_DATABASE_URL": self.database_url,
            "TURNKEEP_REDIS_URL": self.valkey.url,
            "TURNKEEP_KEY_PEPPER": PEPPER,
            "TURNKEEP_STATE_DIR": str(self.directory),
            **self.settings,
            **settings,
        }

    async def be_whole(self) -> None:
        """Starts what is missing, so that there are one API, on our port, and all workers."""
        if not self.api_key:
            self.api_key = await self.add_user()
        self._forget_ended()
        if not self.apis:
            self.start_api(port=self.port)
        while len(self.workers) < self.worker_count:
            self.start_worker()
        await self.be_ready()

    async def be_ready(self) -> None:
        for api in self.apis:
            await api.ready()
        for worker in self.workers:
            await worker.ready()

    def _forget_ended(self) -> None:
        self.apis = [api for api in self.apis if api.is_running]
        self.workers = [worker for worker in self.workers if worker.is_running]

    async def let_go(self, *processes: Process) -> None:
        """Ends some in good order."""
        for process in processes:
            process.send(signal.SIGTERM)
        for process in processes:
            assert await process.ended(30) == 0, process.last_words()
        self._forget_ended()

    @asynccontextmanager
    async def other_workers(self, count: int, **settings: str) -> AsyncIterator[list[Worker]]:
        """Workers with other settings in place of the usual ones, for a while."""
        await self.let_go(*self.workers)
        others = [self.start_worker(settings) for _ in range(count)]
        await self.be_ready()
        try:
            yield others
        finally:
            for worker in others:
                worker.end_now()
            self._forget_ended()

    def stop(self) -> None:
        """Ends everything.

        Raises `LeftInDisorder` for what did not end well, or is still there.
        """
        for process in self.started:
            if process.is_running:
                process.send(signal.SIGCONT)
                process.send(signal.SIGTERM)
        stubborn = []
        for process in self.started:
            try:
                process.end_now()
            except AssertionError as error:
                stubborn.append(str(error))
        left = {process.name: kin for process in self.started if (kin := process.kin())}
        codes = {process.name: process.exit_code for process in self.started}
        newborn = {process.name for process in self.started if not process.log.stat().st_size}
        bad = {
            name: code
            for name, code in codes.items()
            # SIGTERM simply ends a process that has not come to handle it yet.
            if code not in (0, -signal.SIGKILL)
            and not (code == -signal.SIGTERM and name in newborn)
        }
        disorder = stubborn
        if left:
            disorder.append(f"processes left behind: {left}")
        if bad:
            disorder.append(f"exit codes: {bad}")
        if disorder:
            raise LeftInDisorder("; ".join(disorder))

    # -- what they stand on

    @asynccontextmanager
    async def postgres(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def flush_redis(self) -> None:
        connection = RedisConnection(self.valkey.url)
        await connection.call("FLUSHALL")
        await connection.close()

    async def unblock_idle_workers(self) -> None:
        """Ends the waits under way: a stopped worker is handed no turn that it cannot take."""
        connection = RedisConnection(self.valkey.url)
        clients: bytes = await connection.call("CLIENT", "LIST")
        for line in clients.decode().splitlines():
            fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
            if fields["cmd"] == "bzpopmin":
                await connection.call("CLIENT", "UNBLOCK", fields["id"])
        await connection.close()

    async def stop_redis(self) -> None:
        process = self.valkey.process
        assert process is not None
        process.kill()
        await wait_until(lambda: process.poll() is not None, "Valkey has ended")

    def start_redis(self) -> None:
        self.valkey.spawn()
        self.valkey.wait_until_ready()

    async def add_user(self) -> str:
        """The key of a new user of a new tenant."""
        async with Database(self.database_url, size=1) as database:
            tenant_id = await create_tenant(database, "Acceptance")
            user_id = await create_user(database, tenant_id, "a@example.org", "A")
            return await create_api_key(
                database,
                tenant_id=tenant_id,
                user_id=user_id,
                name="acceptance",
                pepper=PEPPER.encode(),
            )

    async def holder(self, turn_id: str) -> Worker:
        """The worker process that runs a turn."""
        async with self.postgres() as connection:

            async def find() -> Worker | None:
                name = await connection.fetchval(
                    "select worker_id from turns where id = $1", turn_id
                )
                pid = int(name.rsplit("-", 2)[1]) if name else None
                return next((worker for worker in self.workers if worker.pid == pid), None)

            worker: Worker = await wait_until(find, "a worker holds the turn")
            return worker


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank: a value that was measured."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
