"""F52, I15: callers that vanish at any moment, and replies that must reach who asked for them.

`python -m tests.chaos.storm`: thousands of reads through slow links to Redis and to Postgres, each
cancelled at a random moment; every reply that arrives is compared with what was asked. A careless
client, which puts a connection back with a reply still under way, shows that the storm would find
such a mistake.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import asyncpg

from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.valkey import EmbeddedValkey
from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.ids import new_id
from shared.postgres.migrate import migrate
from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection
from shared.service.accounts import create_tenant, create_user
from shared.turn.model import Principal
from tests.fixtures.chance import seeded
from tests.fixtures.proxy import (
    Link,
    open_link,
    postgres_dsn_through,
    postgres_upstream,
    redis_upstream,
    redis_url_through,
)

NAMES: Final = 500
AT_ONCE: Final = 40
LATENCY_S: Final = 0.002
JITTER_S: Final = 0.006

Ask = Callable[[int], Awaitable[int | None]]
"""Asks for a number and returns the number that the reply names; None for no reply."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What one client went through."""

    client: str
    asked: int
    cancelled: int
    answered: int
    wrong: int


async def blow(client: str, ask: Ask, *, operations: int, seed: int) -> Storm:
    """`operations` asks, many at once, most of them cancelled somewhere on their way."""
    chance = seeded(seed)
    gate = asyncio.Semaphore(AT_ONCE)
    cancelled = answered = wrong = 0

    async def once() -> None:
        nonlocal cancelled, answered, wrong
        number = chance.randrange(NAMES)
        async with gate:
            task = asyncio.ensure_future(ask(number))
            if chance.random() < 0.7:
                await asyncio.wait([task], timeout=chance.random() * (LATENCY_S + JITTER_S) * 3)
                task.cancel()
            await asyncio.wait([task])
        if task.cancelled():
            cancelled += 1
        elif task.exception() is None and task.result() is not None:
            answered += 1
            wrong += task.result() != number

    async with asyncio.TaskGroup() as group:
        for _ in range(operations):
            group.create_task(once())
    return Storm(client, operations, cancelled, answered, wrong)


class CarelessClient:
    """The mistake that the storm is for: a cancelled caller's connection goes back as it is.

    Use it as `async with`; it has as many connections as there are callers at once.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        for _ in range(AT_ONCE):
            self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_error: object) -> None:
        for _reader, writer in self._idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def get(self, key: str) -> bytes:
        reader, writer = self._idle.pop()
        try:
            writer.write(f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n".encode())
            await writer.drain()
            await reader.readline()
            return (await reader.readline()).strip()
        finally:
            self._idle.append((reader, writer))


async def storm(directory: Path, *, operations: int, seed: int) -> list[Storm]:
    """Every client in turn; the careless one last."""
    with (
        EmbeddedPostgres(directory / "postgres", fsync=False) as postgres,
        EmbeddedValkey(directory / "valkey") as valkey,
    ):
        await migrate(postgres.dsn)
        async with (
            open_link(redis_upstream(valkey.url)) as redis_link,
            open_link(postgres_upstream(postgres.dsn)) as postgres_link,
        ):
            threads, owner = await _fill(postgres.dsn, valkey.url)
            for link in (redis_link, postgres_link):
                link.latency_s, link.jitter_s = LATENCY_S, JITTER_S
            return [
                await _redis(redis_link, valkey.url, operations, seed),
                await _postgres(postgres_link, postgres.dsn, threads, owner, operations, seed),
                await _careless(redis_link, operations // 4, seed),
            ]


async def _fill(dsn: str, redis_url: str) -> tuple[list[UUID], tuple[UUID, UUID]]:
    async with Database(dsn, size=1) as database:
        tenant_id = await create_tenant(database, "Storm")
        user_id = await create_user(database, tenant_id, "storm@example.org", "S")
    threads = [new_id() for _ in range(NAMES)]
    connection = await asyncpg.connect(dsn)
    await connection.executemany(
        "insert into threads (id, tenant_id, user_id) values ($1, $2, $3)",
        [(thread, tenant_id, user_id) for thread in threads],
    )
    await connection.close()
    redis = RedisConnection(redis_url)
    for number in range(NAMES):
        await redis.call("SET", f"storm:{number}", number, "EX", 3600)
    await redis.close()
    return threads, (tenant_id, user_id)


async def _redis(link: Link, url: str, operations: int, seed: int) -> Storm:
    connection = RedisConnection(redis_url_through(link, url))

    async def ask(number: int) -> int | None:
        with contextlib.suppress(RedisUnavailable):
            return int(await connection.call("GET", f"storm:{number}"))
        return None

    try:
        return await blow("Redis", ask, operations=operations, seed=seed)
    finally:
        await connection.close()


async def _postgres(
    link: Link,
    dsn: str,
    threads: list[UUID],
    owner: tuple[UUID, UUID],
    operations: int,
    seed: int,
) -> Storm:
    numbers = {thread: number for number, thread in enumerate(threads)}
    async with Database(postgres_dsn_through(link, dsn), size=8) as database:
        mine = database.for_tenant(Principal(*owner, new_id()))

        async def ask(number: int) -> int | None:
            with contextlib.suppress(PostgresUnavailable):
                row: Any = await mine.fetch_one("get_thread", threads[number], *owner)
                return numbers[row["id"]]
            return None

        return await blow("Postgres", ask, operations=operations, seed=seed)


async def _careless(link: Link, operations: int, seed: int) -> Storm:
    async with CarelessClient(link.port) as client:

        async def ask(number: int) -> int | None:
            with contextlib.suppress(ValueError):
                return int(await client.get(f"storm:{number}"))
            return None

        return await blow("careless", ask, operations=operations, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000, help="of each client")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnkeep-storm-") as name:
        Path(name).chmod(0o755)
        storms = asyncio.run(storm(Path(name), operations=options.operations, seed=options.seed))
    print(json.dumps([asdict(one) for one in storms], indent=1))
    *ours, careless = storms
    return 0 if careless.wrong and not any(one.wrong for one in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
