"""One connection for many callers: replies never cross, whatever is cancelled or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.errors import RedisUnavailable
from shared.redis.connection import RedisConnection, RedisReplyError
from shared.redis.scripts import Script, load_script
from tests.fixtures.chance import seeded
from tests.fixtures.proxy import Link, open_link, redis_upstream, redis_url_through


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    async with open_link(redis_upstream(redis_url)) as link:
        yield link


@pytest.fixture
async def through(link: Link, redis_url: str) -> AsyncIterator[RedisConnection]:
    """A connection through the bad link."""
    connection = RedisConnection(redis_url_through(link, redis_url), reply_timeout_s=1.0)
    yield connection
    await connection.close()


async def test_two_thousand_calls_cancelled_at_random_never_mix_replies(
    link: Link, through: RedisConnection
) -> None:
    link.jitter_s = 0.004
    link.slice_bytes = 997
    chance = seeded(4)
    mismatches: list[tuple[bytes, bytes]] = []
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        await asyncio.sleep(chance.random() * 1.5)
        nonce = f"nonce-{number}".encode() * chance.randint(1, 30)
        reply = await through.call("ECHO", nonce)
        answered += 1
        if reply != nonce:
            mismatches.append((nonce, reply))

    async def ask_and_leave(number: int) -> None:
        task = asyncio.create_task(ask(number))
        if number % 2:
            await asyncio.sleep(chance.random() * 1.6)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async with asyncio.TaskGroup() as group:
        for number in range(2000):
            group.create_task(ask_and_leave(number))
    assert not mismatches
    assert 1000 <= answered < 2000, "some must have been cancelled"
    assert link.connections == 1


async def test_a_silent_redis_is_given_up_and_found_again(
    link: Link, through: RedisConnection
) -> None:
    assert await through.call("PING") == b"PONG"
    link.silent = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(RedisUnavailable):
        await through.call("PING")
    assert 0.9 < loop.time() - began < 5.0
    assert not through.is_connected
    link.silent = False
    assert await through.call("PING") == b"PONG"
    assert link.connections == 2


async def test_everyone_who_waits_hears_of_a_cut(link: Link, through: RedisConnection) -> None:
    await through.call("PING")
    link.latency_s = 0.2
    calls = [asyncio.create_task(through.call("ECHO", n)) for n in range(20)]
    await asyncio.sleep(0)
    link.cut()
    await asyncio.wait(calls)
    assert all(isinstance(call.exception(), RedisUnavailable) for call in calls)
    link.latency_s = 0
    assert await through.call("ECHO", "again") == b"again"


async def test_nobody_there_fails_at_once_and_again_without_trying(redis_url: str) -> None:
    connection = RedisConnection("redis://127.0.0.1:1/0")
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            await connection.call("PING")
    await connection.close()
    with pytest.raises(RedisUnavailable):
        await connection.call("PING")


async def test_a_refused_command_is_that_callers_alone(redis: RedisConnection) -> None:
    good = redis.call("ECHO", "a")
    with pytest.raises(RedisReplyError) as refusal:
        await redis.call("NO-SUCH-COMMAND")
    assert refusal.value.kind == "ERR"
    assert await good == b"a"


async def test_a_script_that_redis_forgot_is_loaded_again(
    redis: RedisConnection, redis_prefix: str
) -> None:
    script: Script = load_script("guard_generation")
    for _ in range(2):
        await redis.call("SCRIPT", "FLUSH")
        assert await script.run(redis, (f"{redis_prefix}:g",), ("run",)) == 0


async def test_commands_of_one_tick_leave_together(link: Link, through: RedisConnection) -> None:
    await through.call("PING")
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(through.call("ECHO", str(n))) for n in range(500)]
    assert [call.result() for call in calls] == [str(n).encode() for n in range(500)]


async def test_closing_while_opening_leaves_nothing(redis_url: str, link: Link) -> None:
    link.latency_s = 0.3
    connection = RedisConnection(redis_url_through(link, redis_url))
    call = asyncio.create_task(connection.call("PING"))
    await asyncio.sleep(0)
    await connection.close()
    await asyncio.wait([call])
    assert call.cancelled() or isinstance(call.exception(), RedisUnavailable)


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
async def test_a_redis_that_takes_no_more_clients_is_unavailable_at_once(pause_s: float) -> None:
    """It says so before anybody asked, and closes."""
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        await writer.drain()
        await asyncio.sleep(pause_s)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = RedisConnection(f"redis://127.0.0.1:{port}", reply_timeout_s=5.0)
        async with asyncio.timeout(4):
            with pytest.raises(RedisUnavailable):
                await connection.call("PING")
        assert not connection.is_connected
        await asyncio.sleep(0.2)
        await connection.close()
    assert defects == []
