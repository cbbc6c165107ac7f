"""Asks a database, a Redis or an HTTP server whether it is there, before anything depends on it."""

import asyncio
import contextlib
from urllib.parse import urlsplit

from deploy.configuration import StartupError

PATIENCE_S = 5.0
OLDEST_POSTGRES = 14


async def require_postgres(url: str) -> None:
    import asyncpg  # heavy, and only needed for a server that is not ours

    try:
        async with asyncio.timeout(PATIENCE_S):
            connection = await asyncpg.connect(url)
            major = connection.get_server_version().major
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise unusable("TURNKEEP_DATABASE_URL", url, error) from None
    if major < OLDEST_POSTGRES:
        raise StartupError(f"PostgreSQL {OLDEST_POSTGRES} or newer is needed, this is {major}")


async def require_redis(url: str) -> None:
    import redis.asyncio  # heavy, and only needed for a server that is not ours

    try:
        async with asyncio.timeout(PATIENCE_S):
            client = redis.asyncio.Redis.from_url(url)
            try:
                await client.ping()
            finally:
                await client.aclose()
    except (OSError, redis.RedisError, ValueError) as error:
        raise unusable("TURNKEEP_REDIS_URL", url, error) from None


def unusable(variable: str, url: str, error: Exception) -> StartupError:
    reason = str(error) or f"no answer within {PATIENCE_S:.0f} s"
    return StartupError(f"{variable} ({without_password(url)}) cannot be used: {one_line(reason)}")


def one_line(text: str) -> str:
    return " ".join(text.split())


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no URL"
    where = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{where}{parts.path}" if parts.scheme else "no URL"


async def answers_ok(host: str, port: int, path: str) -> bool:
    """Does GET `path` answer 200 within a second?"""
    with contextlib.suppress(OSError, ValueError):  # TimeoutError is an OSError
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                status_line = await reader.readline()
            finally:
                writer.close()
            return status_line.split(b" ")[1:2] == [b"200"]
    return False
