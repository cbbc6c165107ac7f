"""A deployment that somebody else runs, as far as it can be reached: its APIs, Postgres and Redis.

Whatever a run adds to it carries the run's name, and is removed again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from shared.redis.connection import RedisConnection
from shared.settings import Settings
from tests.acceptance.client import Client
from tests.acceptance.product import Process
from tests.acceptance.talk import CHAT
from tests.chaos.probes import remove_trigger
from tests.chaos.run import AWAY, QUIET_LIMIT_S
from tests.chaos.workload import Tenant, make_tenants, make_threads
from tests.fixtures.proxy import Upstream, open_link

FAMILY: Final = "turnkeep-chaos"
"""What the names of all tenants begin with that a run makes."""
CLEAN_UP_S: Final = 60.0
LET_END_S: Final = 20.0
"""For the last turns of tenants that are to go."""

_IS_OWNER: Final = (
    "select pg_has_role(relowner, 'usage') from pg_class where oid = 'turns'::regclass"
)
_ACTIVE: Final = (
    "select count(*) from turns where status in ('pending', 'running', 'awaiting_approval')"
)
_MADE: Final = """
select id, name, exists (
    select from turns where tenant_id = tenants.id and ended_at is null
) as is_busy
from tenants
where name like $1
"""
_TABLES: Final = (
    "outbox", "usage", "idempotency_keys", "turn_approvals", "messages", "turns",
    "concurrency_limits", "api_keys", "artifact_counts", "storage_use", "agent_spec_versions",
    "agent_specs", "threads", "users",
)  # fmt: skip
"""All that hangs on a tenant, each before what it hangs on."""


class Refused(Exception):
    """This deployment cannot be tried; the message says why, in a line."""


@dataclass(frozen=True, slots=True)
class ForeignApi:
    """An API behind a port of ours, for clients that speak to this machine only."""

    name: str
    port: int


class ForeignDeployment:
    """A `Target`, and what else a run does to it."""

    def __init__(self, settings: Settings, apis: list[ForeignApi], run: str) -> None:
        self.settings = settings
        self.apis = apis
        self.client_links = apis
        self.workers: Sequence[Process] = ()
        self.database_url = settings.database_url.get_secret_value()
        self.redis_url = settings.redis_url.get_secret_value()
        self.run = run
        self._lent_threads: list[UUID] = []

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        async with asyncio.timeout(10):
            connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[RedisConnection]:
        connection = RedisConnection(self.redis_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def be_whole(self) -> None:
        """Nothing: who breaks it heals it."""

    # -- before

    async def require_calm(self, *, is_staging: bool) -> None:
        """Looks whether a run may begin; changes nothing.

        Raises:
            Refused: it may not.
        """
        try:
            async with self.admin() as admin, asyncio.timeout(30):
                if await admin.fetchval("select to_regclass('turns')") is None:
                    raise Refused("that database is not Turnkeep's: it has no table of turns")
                if not await admin.fetchval(_IS_OWNER):
                    raise Refused("the database URL must be that of the owner of the tables")
                if await admin.fetchval("select to_regclass('chaos_transitions')") is not None:
                    raise Refused(
                        "another run is under way, or one was killed: --clean-up removes its traces"
                    )
                active = await admin.fetchval(_ACTIVE)
        except AWAY as error:
            raise Refused(f"Postgres: {error!r}") from error
        if active and not is_staging:
            raise Refused(
                f"{active} turns of others wait or run there; --yes-this-is-staging goes on"
            )

        for api in self.apis:
            await _require_answer(api)

    async def make_tenants(self, api_keys: Sequence[str], threads: int) -> list[Tenant]:
        """Tenants of our own, or those that the keys belong to, with new threads each.

        Raises:
            Refused: the deployment does not let us, or has other servers than those named.
        """
        try:
            if api_keys:
                return [await self._borrow_tenant(api_key, threads) for api_key in api_keys]
            pepper = self.settings.key_pepper.get_secret_value().encode()
            return await make_tenants(
                self, name=f"{FAMILY} {self.run}", pepper=pepper, threads=threads
            )
        except (AssertionError, OSError, TimeoutError) as error:
            hint = "a 401 means another database, or another pepper"
            raise Refused(f"the first API makes no threads: {error!r} ({hint})") from error

    async def _borrow_tenant(self, api_key: str, count: int) -> Tenant:
        threads = await make_threads(Client(self.apis[0].port, api_key), count)
        self._lent_threads += [UUID(thread) for thread in threads]
        async with self.admin() as admin:
            owner = await admin.fetchrow(
                "select tenant_id, user_id from threads where id = $1", UUID(threads[0])
            )
        if owner is None:
            raise Refused("the first API keeps its threads in another database than the one named")
        return Tenant(str(owner["tenant_id"]), str(owner["user_id"]), api_key, threads)

    # -- after

    async def until_quiet(self, threads: list[UUID]) -> None:
        """Until no turn of these threads waits or runs; the final look tells which did not end."""
        deadline = time.monotonic() + QUIET_LIMIT_S
        while time.monotonic() < deadline:
            async with self.admin() as admin:
                if not await admin.fetchval(
                    "select count(*) from turns where thread_id = any($1) and ended_at is null",
                    threads,
                ):
                    break
            await asyncio.sleep(0.5)
        await asyncio.sleep(2)  # for the last slots and logs to be let go

    async def clean_up(self) -> list[str]:
        """Removes the trigger, the threads and the tenants of this run; tells what stays.

        Asks again while Postgres is away, for a minute.
        """
        deadline = time.monotonic() + CLEAN_UP_S
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + CLEAN_UP_S):
                    return await self._clean_up_once()
            except AWAY as error:
                if time.monotonic() > deadline:
                    return [f"everything, maybe: {error!r}"]
                await asyncio.sleep(1)

    async def _clean_up_once(self) -> list[str]:
        async with self.admin() as admin:
            await remove_trigger(admin)
            if self._lent_threads:
                await admin.execute(
                    "update threads set deleted_at = now() where id = any($1)", self._lent_threads
                )
            made = await self._ended_tenants(admin)
            idle = [tenant["id"] for tenant in made if not tenant["is_busy"]]
            async with admin.transaction():
                for table in _TABLES:
                    await admin.execute(f"delete from {table} where tenant_id = any($1)", idle)  # noqa: S608
                await admin.execute("delete from tenants where id = any($1)", idle)
        stays = [
            f"tenant {tenant['name']!r}: it has turns that did not end"
            for tenant in made
            if tenant["is_busy"]
        ]
        if self._lent_threads:
            stays.append(f"turns and usage in {len(self._lent_threads)} threads, which are hidden")
        return stays

    async def _ended_tenants(self, admin: Any) -> list[Any]:
        """Those of this run, once all their turns have ended, or patience has."""
        deadline = time.monotonic() + LET_END_S
        while True:
            made: list[Any] = await admin.fetch(_MADE, f"{FAMILY} {self.run}%")
            if time.monotonic() > deadline or not any(tenant["is_busy"] for tenant in made):
                return made
            await asyncio.sleep(0.5)


@asynccontextmanager
async def reach(urls: Sequence[str], settings: Settings, run: str) -> AsyncIterator[Any]:
    """The deployment whose APIs have these URLs. `run` names what is made there; "" is all runs.

    Raises:
        Refused: a URL is not `http://host:port`.
    """
    async with AsyncExitStack() as stack:
        apis = []
        for url in urls:
            link = await stack.enter_async_context(open_link(_upstream(url)))
            apis.append(ForeignApi(url, link.port))
        yield ForeignDeployment(settings, apis, run)


async def _require_answer(api: ForeignApi) -> None:
    """It is Turnkeep's, as far as somebody without a key can tell."""
    try:
        async with asyncio.timeout(5):
            answer = await Client(api.port, None).get(f"{CHAT}/threads")
    except (OSError, TimeoutError):
        raise Refused(f"{api.name} does not answer") from None
    if answer.status != HTTPStatus.UNAUTHORIZED:
        raise Refused(f"{api.name} answers {answer.status} to who has no key, not 401")


def _upstream(url: str) -> Upstream:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise Refused(f"{url}: an API is http://host:port, without TLS and without a path")
    return Upstream(None, parts.hostname, parts.port or 80)
