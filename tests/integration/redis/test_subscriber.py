"""One subscription connection: what may have been missed is said, after the acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.errors import RedisUnavailable
from shared.redis.connection import RedisConnection
from shared.redis.subscriber import Subscriber
from tests.fixtures.proxy import open_link, redis_upstream, redis_url_through
from tests.fixtures.waiting import wait_until


@pytest.fixture
async def subscriber(redis_url: str) -> AsyncIterator[Subscriber]:
    async with Subscriber(redis_url) as subscriber:
        yield subscriber


@pytest.fixture
def channel(redis_prefix: str) -> str:
    return f"{redis_prefix}:channel"


async def count(redis: RedisConnection, channel: str) -> int:
    return int((await redis.call("PUBSUB", "NUMSUB", channel))[1])


async def test_what_is_published_after_subscribe_returns_is_heard(
    redis: RedisConnection, subscriber: Subscriber, channel: str
) -> None:
    for number in range(50):
        heard: list[bytes | None] = []
        name = f"{channel}{number}"
        subscription = await subscriber.subscribe(name, heard.append)
        assert await redis.call("PUBLISH", name, "m") == 1
        await wait_until(lambda heard=heard: b"m" in heard, "the message arrives")
        subscription.close()


async def test_listeners_share_a_channel_and_the_last_one_closes_it(
    redis: RedisConnection, subscriber: Subscriber, channel: str
) -> None:
    first: list[bytes | None] = []
    second: list[bytes | None] = []
    one = await subscriber.subscribe(channel, first.append)
    two = await subscriber.subscribe(channel, second.append)
    assert await redis.call("PUBLISH", channel, "a") == 1
    await wait_until(lambda: second[-1:] == [b"a"], "both hear")
    one.close()
    await redis.call("PUBLISH", channel, "b")
    await wait_until(lambda: second[-1:] == [b"b"], "the second hears")
    assert b"b" not in first
    two.close()
    two.close()

    async def unsubscribed() -> bool:
        return await count(redis, channel) == 0

    await wait_until(unsubscribed, "the channel is closed")


async def test_after_a_lost_connection_none_is_heard_once_redis_acknowledged(
    redis: RedisConnection, subscriber: Subscriber, channel: str
) -> None:
    heard: list[tuple[bytes | None, bool]] = []
    acknowledged: asyncio.Event = asyncio.Event()

    def hear(message: bytes | None) -> None:
        ack = subscriber._acks.get(channel)
        heard.append((message, ack is not None and ack.done()))
        if message is None:
            acknowledged.set()

    await subscriber.subscribe(channel, hear)
    for _ in range(5):
        acknowledged.clear()
        assert await redis.call("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        async with asyncio.timeout(5):
            await acknowledged.wait()
        # Whatever is published from now on must arrive.
        assert await redis.call("PUBLISH", channel, "m") == 1
        await wait_until(lambda: heard[-1][0] == b"m", "the message arrives")
    assert all(was_acknowledged for _, was_acknowledged in heard)
    assert [message for message, _ in heard if message is None].count(None) >= 5


async def test_a_subscription_without_redis_is_refused_and_forgotten(
    redis: RedisConnection, channel: str
) -> None:
    async with Subscriber("redis://127.0.0.1:1/0") as subscriber:
        with pytest.raises(RedisUnavailable):
            await subscriber.subscribe(channel, lambda _: None)
        assert subscriber._channels == {}


async def test_a_subscription_for_later_begins_when_redis_is_back(
    redis_url: str, redis: RedisConnection, channel: str
) -> None:
    async with open_link(redis_upstream(redis_url)) as link:
        link.refuses = True
        heard: list[bytes | None] = []
        async with Subscriber(redis_url_through(link, redis_url)) as subscriber:
            subscription = subscriber.subscribe_soon(channel, heard.append)
            assert not heard
            link.refuses = False
            await wait_until(lambda: heard == [None], "the subscription begins")
            assert await redis.call("PUBLISH", channel, "m") == 1
            await wait_until(lambda: heard == [None, b"m"], "the message arrives")
            subscription.close()


async def test_a_silent_connection_is_dropped(
    redis_url: str, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.redis.subscriber.PING_INTERVAL_S", 0.05)
    monkeypatch.setattr("shared.redis.subscriber.SILENCE_LIMIT_S", 0.3)
    async with open_link(redis_upstream(redis_url)) as link:
        heard: list[bytes | None] = []
        async with Subscriber(redis_url_through(link, redis_url)) as subscriber:
            await subscriber.subscribe(channel, heard.append)
            link.silent = True
            await wait_until(lambda: not subscriber.is_connected, "the silence is noticed")
            link.silent = False
            heard.clear()
            await wait_until(lambda: heard == [None], "listeners hear of the gap")


async def test_a_cancelled_subscribe_leaves_nothing_and_the_next_one_hears_all(
    redis_url: str, redis: RedisConnection, channel: str
) -> None:
    async with (
        open_link(redis_upstream(redis_url)) as link,
        Subscriber(redis_url_through(link, redis_url)) as subscriber,
    ):
        await wait_until(lambda: subscriber.is_connected, "it is connected")
        link.latency_up_s = 0.05
        first = asyncio.create_task(subscriber.subscribe(channel, lambda _: None))
        await asyncio.sleep(0.02)  # its SUBSCRIBE is under way
        first.cancel()
        await asyncio.wait([first])
        assert subscriber._channels == {}
        heard: list[bytes | None] = []
        # UNSUBSCRIBE and SUBSCRIBE are still on their way when the first SUBSCRIBE is answered:
        # that answer must not be taken for this one's.
        again = await subscriber.subscribe(channel, heard.append)
        assert subscriber._owed == {}, "it took another's acknowledgement for its own"
        assert await redis.call("PUBLISH", channel, "m") == 1
        await wait_until(lambda: b"m" in heard, "the message arrives")
        again.close()
