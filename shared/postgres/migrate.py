"""`python -m shared.postgres.migrate`: brings the schema up to date, also when many run at once.

Files run once, in order, each in a transaction; a file that changed after it ran is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Final

import asyncpg
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.postgres.pool import connect

_FOLDER: Final = Path(__file__).with_name("migrations")
_LOCK: Final = 7_239_001
_LOCK_TIMEOUT_S: Final = 60.0
_LOCK_PAUSE_S: Final = 0.05
_TABLE_WAIT_MS: Final = 300
_TABLE_TRIES: Final = 60
_TABLE_PAUSE_S: Final = 0.5


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message says why, in one line."""


async def migrate(dsn: str, folder: Path = _FOLDER) -> list[str]:
    """Applies what is missing; returns the names of the files that ran.

    Raises:
        MigrationError: a file was changed after it ran, or another migrator holds the lock.
    """
    applied = []
    async with connect(dsn) as connection:
        await _lock(connection)
        await connection.execute(
            "create table if not exists schema_migrations ("
            " version text primary key, checksum text not null,"
            " applied_at timestamptz not null default now())"
        )
        rows = await connection.fetch("select version, checksum from schema_migrations")
        known = {row["version"]: row["checksum"] for row in rows}
        for path in await asyncio.to_thread(_list_files, folder):
            if await _apply(connection, path, known):
                applied.append(path.stem)
    return applied


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # Polled: a session that blocks in pg_advisory_lock() would deadlock concurrent index builds.
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT_S):
            while not await connection.fetchval("select pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 - Postgres tells nobody
                await asyncio.sleep(_LOCK_PAUSE_S)
    except TimeoutError as error:
        raise MigrationError("another migration has been running for a minute") from error


def _list_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.sql"))


async def _apply(
    connection: asyncpg.Connection[asyncpg.Record], path: Path, known: dict[str, str]
) -> bool:
    text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    checksum = hashlib.sha256(text.encode()).hexdigest()
    if path.stem in known:
        if known[path.stem] != checksum:
            raise MigrationError(f"{path.name} was changed after it was applied")
        return False
    # Whoever comes while a migration waits for a table waits behind it: so it waits shortly, often.
    for tries_left in reversed(range(_TABLE_TRIES)):
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = {_TABLE_WAIT_MS}")
                await connection.execute(text)
                await connection.execute(
                    "insert into schema_migrations (version, checksum) values ($1, $2)",
                    path.stem,
                    checksum,
                )
        except asyncpg.LockNotAvailableError:
            if not tries_left:
                raise
            await asyncio.sleep(_TABLE_PAUSE_S)
        else:
            break
    return True


class _MigrateSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TURNKEEP_", extra="ignore")

    database_url: SecretStr = Field()


def main() -> None:
    """Exit code 0 when the schema is up to date."""
    argparse.ArgumentParser(
        prog="python -m shared.postgres.migrate",
        description="Brings the schema of TURNKEEP_DATABASE_URL up to date.",
    ).parse_args()
    try:
        dsn = _MigrateSettings().database_url.get_secret_value()
        applied = asyncio.run(migrate(dsn))
    except ValidationError:
        raise SystemExit("turnkeep: TURNKEEP_DATABASE_URL is not set") from None
    except (MigrationError, asyncpg.PostgresError, OSError, TimeoutError, ValueError) as error:
        raise SystemExit(f"turnkeep: migration failed: {error}") from None
    sys.stdout.write(f"migrated: {', '.join(applied) if applied else 'nothing to do'}\n")


if __name__ == "__main__":
    main()
