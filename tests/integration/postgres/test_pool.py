"""The door to Postgres: a caller may leave, the call it made does not stop half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.errors import PostgresBusy, PostgresUnavailable
from shared.postgres.batches import as_elements, columns
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.accept import accept_arguments
from shared.turn.model import NewTurn, Principal
from tests.fixtures.proxy import open_link, postgres_dsn_through, postgres_upstream
from tests.fixtures.system import MakeTurn
from tests.fixtures.waiting import wait_until


def as_columns(new: NewTurn) -> list[list[Any]]:
    return columns([as_elements(accept_arguments(new, 100.0))])


async def test_a_call_goes_on_when_its_caller_is_cancelled(
    database: Database, make_turn: MakeTurn, admin: Any
) -> None:
    await database.ping()
    reached, gate = asyncio.Event(), asyncio.Event()
    new = make_turn()

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one("accept_turns", *as_columns(new))
        reached.set()
        await gate.wait()

    caller = asyncio.create_task(database.run_in_transaction(work))
    await reached.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    gate.set()
    await wait_until(lambda: not database._calls, "the call has finished")
    assert await admin.fetchval("select count(*) from turns") == 1


async def test_a_started_task_calls_without_another_and_is_waited_for(
    database_url: str,
) -> None:
    tasks: set[asyncio.Task[Any] | None] = set()

    async def work(transaction: Transaction) -> None:
        await asyncio.sleep(0.01)
        tasks.add(asyncio.current_task())

    async with Database(database_url, size=1) as database:
        started = database.start(database.run_in_transaction(work))
        await asyncio.sleep(0)
    assert started.done()
    assert tasks == {started}


async def test_a_failed_transaction_leaves_nothing(
    database: Database, make_turn: MakeTurn, admin: Any
) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one("accept_turns", *as_columns(make_turn()))
        raise KeyError("changed its mind")

    with pytest.raises(KeyError):
        await database.run_in_transaction(work)
    assert await admin.fetchval("select count(*) from turns") == 0


async def test_an_argument_that_cannot_be_sent_is_no_absence(
    database: Database, principal: Principal
) -> None:
    """The driver refuses it, as Postgres would have: the next caller is served."""
    with pytest.raises(asyncpg.DataError):
        await database.fetch_one("revoke_api_key", "not an id")
    with pytest.raises(asyncpg.DataError):
        await database.for_tenant(principal).fetch_many(
            "list_access_tokens", principal.tenant_id, principal.user_id, None, 2**70
        )
    await database.ping()


async def test_more_callers_than_connections_are_refused_in_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.postgres.pool.ACQUIRE_TIMEOUT_S", 1.0)
    gate = asyncio.Event()

    async def hold(_: Transaction) -> None:
        await gate.wait()

    async with Database(database_url, size=1) as database:
        holder = asyncio.create_task(database.run_in_transaction(hold))
        await wait_until(lambda: database._pool, "the pool is open")
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(PostgresUnavailable):
            await database.ping()
        assert loop.time() - began < 4
        gate.set()
        await holder
        await database.ping()


async def test_connections_that_were_ended_are_replaced(database: Database, admin: Any) -> None:
    async def serves() -> bool:
        try:
            await database.ping()
        except PostgresUnavailable:
            return False
        return True

    for _ in range(5):
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(database.ping())
        await admin.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        # No other error than PostgresUnavailable comes through, and not for long.
        await wait_until(serves, "Postgres serves again", 2.0)


async def test_a_silent_postgres_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.postgres.pool._CALL_TIMEOUT_S", 0.5)
    async with open_link(postgres_upstream(database_url)) as link:
        database = Database(postgres_dsn_through(link, database_url), size=2)
        await database.ping()
        link.silent = True
        with pytest.raises(PostgresUnavailable):
            await database.ping()
        link.silent = False
        link.cut()
        await wait_until(lambda: not database._calls, "the call is over")
        await database.close()


# -- others in the way


@pytest.fixture
async def rival(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_a_tenants_transaction_that_postgres_undid_is_done_again(
    database: Database, principal: Principal, thread: UUID, admin: Any, rival: Any
) -> None:
    who = (principal.tenant_id, principal.user_id)
    tries = 0

    async def work(transaction: Transaction) -> Any:
        nonlocal tries
        tries += 1
        await transaction._connection.execute("set transaction isolation level repeatable read")
        await transaction.fetch_one("get_thread", thread, *who)
        if tries == 1:
            await rival.execute("update threads set metadata = '{}'")
        return await transaction.fetch_one("delete_thread", thread, *who)

    assert await database.for_tenant(principal).run_in_transaction(work) is not None
    assert tries == 2
    assert await admin.fetchval("select deleted_at is not null from threads")


async def test_who_is_undone_again_is_told_that_postgres_is_busy(
    database: Database, principal: Principal, thread: UUID, rival: Any
) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction._connection.execute("set transaction isolation level repeatable read")
        await transaction._connection.execute("select from threads")
        await rival.execute("update threads set metadata = '{}'")
        await transaction._connection.execute("update threads set title = 'mine'")

    for runs in (database.run_in_transaction, database.for_tenant(principal).run_in_transaction):
        with pytest.raises(PostgresBusy, match="could not serialize"):
            await runs(work)


async def test_a_lock_that_is_held_too_long_is_told_as_busy(
    database: Database, principal: Principal, thread: UUID, rival: Any
) -> None:
    who = (principal.tenant_id, principal.user_id)
    await rival.execute("begin; update threads set title = 'mine'")
    with pytest.raises(PostgresBusy, match="lock timeout"):
        await database.for_tenant(principal).fetch_one("delete_thread", thread, *who)
