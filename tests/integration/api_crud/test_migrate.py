"""Migrations run once, in order, whole or not at all, and tell in one line what is wrong."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.postgres import migrate as migrate_module
from shared.postgres.migrate import MigrationError, migrate
from tests.fixtures.servers import with_database


@pytest.fixture
async def empty(postgres_server: str) -> AsyncIterator[str]:
    """DSN of an empty database."""
    name = f"tk_empty_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_server)
    await connection.execute(f"create database {name}")
    yield with_database(postgres_server, name)
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("create table one (id int);")
    (tmp_path / "0002_two.sql").write_text("create table two (id int); insert into one values (1);")
    return tmp_path


async def fetch(dsn: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_twice(empty: str) -> None:
    first = await migrate(empty)
    assert first[0] == "0001_core"
    assert await migrate(empty) == []
    rows = await fetch(empty, "select version from schema_migrations order by version")
    assert [version for (version,) in rows] == first


async def test_many_at_once(empty: str, folder: Path) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(migrate(empty, folder)) for _ in range(8)]
    applied = [name for task in tasks for name in task.result()]
    assert applied == ["0001_one", "0002_two"]
    assert await fetch(empty, "select * from one") == [(1,)]


async def test_only_what_is_missing(empty: str, folder: Path) -> None:
    await migrate(empty, folder)
    (folder / "0003_three.sql").write_text("create table three (id int);")
    (folder / "notes.sql").write_text("nonsense")
    assert await migrate(empty, folder) == ["0003_three"]


async def test_a_file_that_fails_leaves_nothing(empty: str, folder: Path) -> None:
    (folder / "0003_bad.sql").write_text("create table three (id int); select nonsense;")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await migrate(empty, folder)
    assert await fetch(empty, "select to_regclass('three')") == [(None,)]
    (folder / "0003_bad.sql").write_text("create table three (id int);")
    assert await migrate(empty, folder) == ["0003_bad"]


async def test_a_file_and_its_record_are_one(empty: str, folder: Path) -> None:
    (folder / "0003_bad.sql").write_text(
        "create table three (id int); drop table schema_migrations;"
    )
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(empty, folder)
    assert await fetch(empty, "select to_regclass('three')") == [(None,)]


async def test_a_changed_file_is_an_error(empty: str, folder: Path) -> None:
    await migrate(empty, folder)
    (folder / "0001_one.sql").write_text("create table one (id bigint);")
    (folder / "0003_three.sql").write_text("create table three (id int);")
    with pytest.raises(MigrationError, match=r"0001_one\.sql was changed"):
        await migrate(empty, folder)
    assert await fetch(empty, "select to_regclass('three')") == [(None,)]


async def test_another_migrator_that_never_ends(
    empty: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "_LOCK_TIMEOUT_S", 0.2)
    other = await asyncpg.connect(empty)
    await other.execute(f"select pg_advisory_lock({migrate_module._LOCK})")
    with pytest.raises(MigrationError, match="another migration"):
        await migrate(empty, folder)
    await other.close()
    assert await migrate(empty, folder) == ["0001_one", "0002_two"]


async def run(**environment: str) -> tuple[int | None, str, str]:
    """`python -m shared.postgres.migrate` with nothing else of ours in its environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TURNKEEP_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.postgres.migrate",
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_command(empty: str) -> None:
    code, output, errors = await run(TURNKEEP_DATABASE_URL=empty)
    assert (code, errors) == (0, "")
    assert "0001_core" in output
    assert (await run(TURNKEEP_DATABASE_URL=empty))[1] == "migrated: nothing to do\n"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TURNKEEP_DATABASE_URL": ""},
        {"TURNKEEP_DATABASE_URL": "nonsense"},
        {"TURNKEEP_DATABASE_URL": "mysql://localhost/x"},
        {"TURNKEEP_DATABASE_URL": "postgresql://u:canary@127.0.0.1:1/x"},
        {"TURNKEEP_DATABASE_URL": "postgresql:///x?host=/nowhere"},
        {"TURNKEEP_DATABASE_URL": "postgresql://127.0.0.1:notaport/x"},
    ],
)
async def test_the_command_fails_in_one_line(environment: dict[str, str]) -> None:
    code, output, errors = await run(**environment)
    assert code not in (0, None)
    assert output == ""
    assert errors.startswith("turnkeep: ")
    assert errors.count("\n") == 1
    assert "canary" not in errors
