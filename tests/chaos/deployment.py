"""The product on servers and links of its own, each of which may be broken.

Every API and worker process reaches Redis and Postgres over links that no other process shares, so
that one of them can be cut off; clients reach each API over a link as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from deploy.configuration import free_port
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.valkey import EmbeddedValkey
from shared.postgres.migrate import migrate
from shared.redis.connection import RedisConnection
from tests.acceptance.product import Api, LeftInDisorder, Process, Product, Worker
from tests.chaos.arena import FaultSkipped
from tests.fixtures.proxy import (
    Link,
    Upstream,
    open_link,
    postgres_dsn_through,
    postgres_upstream,
    redis_upstream,
    redis_url_through,
)

API_COUNT = 2
WORKER_COUNT = 2
SPARE_SLOTS = 6
"""Slots beyond those: a process may be replaced before the one before it has ended."""

SMALL_DISK = "400m"
SHORT_CLOCKS = {"TURNKEEP_LEASE_S": "2", "TURNKEEP_HEARTBEAT_S": "0.5"}
PRODUCTION_CLOCKS: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Slot:
    """The links of one process."""

    redis: Link
    postgres: Link

    def both(self) -> tuple[Link, Link]:
        return self.redis, self.postgres


class Deployment(Product):
    """APIs on fixed ports, workers that come and go, and the ways in which all of it is hurt."""

    def __init__(
        self,
        directory: Path,
        postgres: EmbeddedPostgres,
        valkey: EmbeddedValkey,
        slots: list[Slot],
        clients: list[Link],
        api_ports: list[int],
        settings: dict[str, str],
    ) -> None:
        super().__init__(
            directory,
            database_url=postgres.dsn,
            valkey=valkey,
            worker_count=WORKER_COUNT,
            settings=settings,
        )
        self.server = postgres
        self.disorder = ""
        self.client_links = clients
        self._api_ports = api_ports
        self._free_slots = slots
        self._slots: dict[Process, Slot] = {}

    def stop(self) -> None:
        """Ends everything; `disorder` tells what did not end well, so that a run is reported."""
        try:
            super().stop()
        except LeftInDisorder as error:
            self.disorder = str(error)

    # -- processes

    def slot(self, process: Process) -> Slot:
        """The links of a process that was started here."""
        return self._slots[process]

    def metrics_ports(self) -> dict[str, int]:
        """Where each living process tells its figures."""
        self._forget_ended()
        ports = {api.name: api.port for api in self.apis}
        return ports | {worker.name: worker.metrics_port for worker in self.workers}

    def start_api(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        arguments: list[str] | None = None,
    ) -> Api:
        slot = self._take_slot()
        settings = {**self._urls(slot), **(settings or {})}
        api = super().start_api(settings, port=port, arguments=arguments)
        self._slots[api] = slot
        return api

    def start_worker(
        self, settings: Mapping[str, str] | None = None, *, arguments: list[str] | None = None
    ) -> Worker:
        slot = self._take_slot()
        worker = super().start_worker({**self._urls(slot), **(settings or {})}, arguments=arguments)
        self._slots[worker] = slot
        return worker

    def _urls(self, slot: Slot) -> dict[str, str]:
        return {
            "TURNKEEP_REDIS_URL": redis_url_through(slot.redis, self.valkey.url),
            "TURNKEEP_DATABASE_URL": postgres_dsn_through(slot.postgres, self.database_url),
        }

    def _take_slot(self) -> Slot:
        for process, slot in list(self._slots.items()):
            if not process.is_running:
                del self._slots[process]
                self._free_slots.append(slot)
        return self._free_slots.pop(0)

    async def be_whole(self) -> None:
        """Starts what is missing: an API on each port, and all workers."""
        if not self.api_key:
            self.api_key = await self.add_user()
        self._forget_ended()
        taken = {api.port for api in self.apis}
        for port in self._api_ports:
            if port not in taken:
                self.start_api(port=port)
        while len(self.workers) < self.worker_count:
            self.start_worker()
        await self.be_ready()

    @contextmanager
    def stopped(self, *process_ids: int) -> Iterator[None]:
        """Freezes processes for the length of the block."""
        for process_id in process_ids:
            os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            for process_id in process_ids:
                os.kill(process_id, signal.SIGCONT)

    # -- Redis

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[RedisConnection]:
        """A connection past all links."""
        connection = RedisConnection(self.valkey.url)
        try:
            yield connection
        finally:
            await connection.close()

    @property
    def redis_pid(self) -> int:
        process = self.valkey.process
        assert process is not None
        return process.pid

    # -- Postgres

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        """A connection past all links."""
        async with asyncio.timeout(10):
            connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    @property
    def postgres_pid(self) -> int:
        process = self.server.process
        assert process is not None
        return process.pid

    async def kill_postgres(self) -> None:
        """Ends Postgres as a crash does; it recovers from its log at the next start."""
        process = self.server.process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        while process.poll() is None:  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.01)

    def start_postgres(self) -> None:
        self.server.spawn()
        self.server.wait_until_ready()

    # -- links

    def links(self, kind: type[Process] | None = None) -> Iterator[Slot]:
        """Slots of the living processes of a kind, or of all."""
        for process, slot in self._slots.items():
            if process.is_running and (kind is None or isinstance(process, kind)):
                yield slot


@contextmanager
def _small_disk(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise FaultSkipped("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], capture_output=True, check=True)


@asynccontextmanager
async def open_deployment(
    directory: Path, *, settings: Mapping[str, str] | None = None, has_small_disk: bool = False
) -> AsyncIterator[Deployment]:
    """Servers, links and the whole product in `directory`; everything is ended with the block.

    Raises:
        FaultSkipped: a small disk is wanted, and may not be mounted.
    """
    async with AsyncExitStack() as stack:
        if has_small_disk:
            stack.enter_context(_small_disk(directory / "postgres"))
        postgres = stack.enter_context(EmbeddedPostgres(directory / "postgres"))
        valkey = stack.enter_context(EmbeddedValkey(directory / "valkey"))
        await migrate(postgres.dsn)

        async def link_to(upstream: Upstream) -> Link:
            return await stack.enter_async_context(open_link(upstream))

        slots = [
            Slot(
                await link_to(redis_upstream(valkey.url)),
                await link_to(postgres_upstream(postgres.dsn)),
            )
            for _ in range(API_COUNT + WORKER_COUNT + SPARE_SLOTS)
        ]
        ports = [free_port() for _ in range(API_COUNT)]
        clients = [await link_to(Upstream(None, "127.0.0.1", port)) for port in ports]
        deployment = Deployment(
            directory / "product", postgres, valkey, slots, clients, ports, dict(settings or {})
        )
        # In a thread: the links on which the processes say goodbye live on this loop.
        stack.push_async_callback(asyncio.to_thread, deployment.stop)
        await deployment.be_whole()
        yield deployment
