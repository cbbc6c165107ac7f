"""The migration that makes the tenants' role: on fresh clusters, without privileges, under load."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

from deploy.embedded.postgres import EmbeddedPostgres
from shared.postgres import migrate as migrate_module
from shared.postgres.migrate import migrate
from shared.postgres.pool import Database
from shared.postgres.queries import load_queries
from tests.fixtures.servers import with_database
from tests.fixtures.system import add_principal, add_thread
from tests.fixtures.waiting import wait_until
from tests.integration.postgres.desk import Desk

MIGRATION = "0004_row_level_security"


@pytest.fixture
def fresh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of a superuser on a cluster that has never heard of us: roles belong to a cluster."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("cluster"), fsync=False) as server:
        yield server.dsn


@pytest.fixture
async def root(fresh_cluster: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(fresh_cluster)
    yield connection
    await connection.close()


def with_login(dsn: str, name: str) -> str:
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}@{host}", path=f"/{name}"))


async def add_login(root: Any, dsn: str, name: str, powers: str = "") -> str:
    """A login with a database of its own."""
    await root.execute(f"create role {name} login {powers}")
    await root.execute(f"create database {name} owner {name}")
    return with_login(dsn, name)


async def serves_tenants(dsn: str, owner: str | None = None) -> bool:
    """Whether the engine works, a tenant sees its thread, and another tenant does not."""
    admin = await asyncpg.connect(owner or dsn)
    try:
        mine, other = await add_principal(admin), await add_principal(admin)
        await add_thread(admin, mine)
    finally:
        await admin.close()
    async with Database(dsn, size=2) as database:
        assert await database.fetch_many("list_claimable_heads", 1) == []
        args = (mine.tenant_id, mine.user_id, None, None, 9)
        own = await database.for_tenant(mine).fetch_many("list_threads", *args)
        foreign = await database.for_tenant(other).fetch_many("list_threads", *args)
        asked = ([mine.key_id], [mine.tenant_id], [mine.user_id])
        assert await database.fetch_many("get_turn_versions", *asked) == []
    return (len(own), len(foreign)) == (1, 0)


async def test_many_databases_of_a_fresh_cluster_at_once(fresh_cluster: str, root: Any) -> None:
    names = [f"d{number}" for number in range(6)]
    for name in names:
        await root.execute(f"create database {name}")
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(migrate(with_database(fresh_cluster, name)))
    assert await serves_tenants(with_database(fresh_cluster, names[0]))
    await root.execute(f"drop database {names[0]} with (force)")
    assert await serves_tenants(with_database(fresh_cluster, names[1]))


async def test_a_login_without_privileges_is_told_what_an_administrator_must_run(
    fresh_cluster: str, root: Any
) -> None:
    plain = await add_login(root, fresh_cluster, "plain")
    for wrong in ("select 1", "alter role turnkeep_tenant bypassrls"):
        await root.execute(wrong)
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
            await migrate(plain)
        message = str(refused.value)
        assert "\n" not in message
        told, _, remedy = message.partition("must run once: ")
        assert told.startswith("an administrator")
        await root.execute(remedy)
    assert MIGRATION in await migrate(plain)
    assert await serves_tenants(plain)


async def test_a_login_that_may_make_roles_needs_nobody(fresh_cluster: str, root: Any) -> None:
    first = await add_login(root, fresh_cluster, "first", "createrole")
    second = await add_login(root, fresh_cluster, "second", "createrole")
    await migrate(first)
    assert await serves_tenants(first)
    if root.get_server_version().major >= 16:  # from then on a role is its maker's to give
        remedy = "grant turnkeep_tenant, turnkeep_engine to second"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=remedy):
            await migrate(second)
        await root.execute(remedy)
    await migrate(second)
    assert await serves_tenants(second)


async def test_a_login_that_owns_nothing_is_enough_to_serve(fresh_cluster: str, root: Any) -> None:
    await migrate(fresh_cluster)
    await root.execute("create role app login")
    dsn = with_database(with_login(fresh_cluster, "app"), "postgres")
    async with Database(dsn, size=1) as database:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.fetch_many("list_claimable_heads", 1)
    await root.execute("grant turnkeep_engine, turnkeep_tenant to app")
    assert await serves_tenants(dsn, fresh_cluster)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("select count(*) from threads") == 1, "the engine sees all"
    await connection.close()


async def test_a_login_that_served_before_goes_on(fresh_cluster: str, root: Any) -> None:
    """It was granted the tables by hand; nobody granted it the roles."""
    text = (migrate_module._FOLDER / f"{MIGRATION}.sql").read_text()
    for path in migrate_module._list_files(migrate_module._FOLDER):
        if path.stem < MIGRATION:
            await root.execute(path.read_text())
    await root.execute(
        "create role app login;"
        " grant select, insert, update, delete on all tables in schema public to app"
    )
    async with root.transaction():
        await root.execute(text)
    for path in migrate_module._list_files(migrate_module._FOLDER):
        if path.stem > MIGRATION:
            async with root.transaction():
                await root.execute(path.read_text())
    assert await serves_tenants(
        with_database(with_login(fresh_cluster, "app"), "postgres"), fresh_cluster
    )


async def test_a_tenant_who_would_be_the_engine_is_refused(fresh_cluster: str, root: Any) -> None:
    await root.execute("create role turnkeep_tenant; create role turnkeep_engine")
    await root.execute("grant turnkeep_engine to turnkeep_tenant")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="revoke turnkeep_engine from"):
        await migrate(fresh_cluster)


# -- on a live database


@asynccontextmanager
async def migrated(postgres_server: str, folder: Path, files: Sequence[Path]) -> AsyncIterator[str]:
    """DSN of a database with these migrations alone."""
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    name = f"tk_before_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_server)
    await connection.execute(f"create database {name}")
    dsn = with_database(postgres_server, name)
    await migrate(dsn, folder)
    yield dsn
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture
async def before(postgres_server: str, tmp_path: Path) -> AsyncIterator[str]:
    """As it was before the migration."""
    files = migrate_module._list_files(migrate_module._FOLDER)
    files = [path for path in files if path.stem < MIGRATION]
    async with migrated(postgres_server, tmp_path / "before", files) as dsn:
        yield dsn


@pytest.fixture
async def previous(postgres_server: str, tmp_path: Path) -> AsyncIterator[str]:
    """As it was before the newest migration: this release's statements must run there."""
    files = migrate_module._list_files(migrate_module._FOLDER)[:-1]
    async with migrated(postgres_server, tmp_path / "previous", files) as dsn:
        yield dsn


async def test_a_live_system_does_not_notice(previous: str, make_turn: Callable[..., Any]) -> None:
    admin, holder = await asyncpg.connect(previous), await asyncpg.connect(previous)
    who = await add_principal(admin)
    threads = [await add_thread(admin, who) for _ in range(4)]
    # In mid-transaction for so long that the first attempts are in vain.
    await holder.execute("begin; update threads set title = title")
    loop, stop, waits = asyncio.get_running_loop(), asyncio.Event(), [0.0]

    async def work(desk: Desk, thread: UUID) -> None:
        while not stop.is_set():
            began = loop.time()
            new = make_turn(principal=who, thread=thread)
            accepting = desk.accept(new) if thread != threads[0] else None
            if accepting is None:
                await desk.database.fetch_many("get_turn_versions", [thread], [thread], [thread])
            else:
                assert await accepting is not None
                assert await desk.claim(new.id) is not None
                assert await desk.end(new, 1, text="done") is not None
            waits.append(loop.time() - began)
            await asyncio.sleep(0.001)

    async with Database(previous, size=6) as database, asyncio.TaskGroup() as group:
        desk = Desk(database)
        migration = group.create_task(migrate(previous))
        await wait_until(lambda: admin_sees_lock(admin), "the migration waits")
        group.create_task(work(desk, threads[0]))
        await asyncio.sleep(1.5)
        assert not migration.done()
        await holder.execute("commit")
        for thread in threads[1:]:
            group.create_task(work(desk, thread))
        applied = await migration
        await asyncio.sleep(0.2)
        stop.set()
    assert len(applied) == 1
    assert max(waits) < 1.2, "nobody waited as long as the migration did"
    assert len(waits) > 20
    for connection in (admin, holder):
        await connection.close()
    assert await serves_tenants(previous)


async def admin_sees_lock(admin: Any) -> bool:
    waiting: bool = await admin.fetchval("select bool_or(not granted) is true from pg_locks")
    return waiting


async def test_a_database_that_never_rests_is_left_as_it_was(
    before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (migrate_module._FOLDER / f"{MIGRATION}.sql").read_text()
    holder = await asyncpg.connect(before)
    await holder.execute("begin; lock table messages in access share mode")
    connection = await asyncpg.connect(before)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await connection.execute(text.replace("1..60", "1..3").replace("= 60", "= 3"))
    assert not await connection.fetchval("select bool_or(relrowsecurity) from pg_class")
    await connection.close()
    await holder.close()
    assert MIGRATION in await migrate(before)


async def test_statements_of_before_go_on(previous: str) -> None:
    """A process that was started before the migration runs all as the owner, as it did."""
    admin = await asyncpg.connect(previous)
    who = await add_principal(admin)
    thread = await add_thread(admin, who)
    old = load_queries()["get_thread"].sql
    assert await admin.fetchrow(old, thread, who.tenant_id, who.user_id) is not None
    await migrate(previous)
    assert await admin.fetchrow(old, thread, who.tenant_id, who.user_id) is not None
    await admin.close()
