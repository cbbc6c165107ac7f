"""Stands in for `python -m shared.postgres.migrate`: one table, on the real server."""

import asyncio
import os

import asyncpg


async def migrate() -> None:
    connection = await asyncpg.connect(os.environ["TURNKEEP_DATABASE_URL"])
    await connection.execute("CREATE TABLE IF NOT EXISTS start (at timestamptz DEFAULT now())")
    await connection.execute("INSERT INTO start DEFAULT VALUES")
    await connection.close()


asyncio.run(migrate())
