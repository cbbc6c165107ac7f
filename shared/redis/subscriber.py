"""One pub/sub connection for a whole process: channels come and go, callbacks get the messages.

The connection is pinged; silence means loss. After a loss it is opened again, every channel is
subscribed again, and its callback hears `None`: messages may have been missed, look elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final, Self

import structlog

from shared.errors import RedisUnavailable
from shared.redis.connection import (
    RedisAddress,
    RedisReplyError,
    RespProtocol,
    handshake,
    open_protocol,
    pack,
)

log = structlog.get_logger(__name__)

PING_INTERVAL_S: Final = 5.0
SILENCE_LIMIT_S: Final = 10.0
ACK_TIMEOUT_S: Final = 2.0
_MAX_PAUSE_S: Final = 1.0

Callback = Callable[[bytes | None], None]


class Subscription:
    """Interest of one listener in one channel."""

    __slots__ = ("_subscriber", "callback", "channel")

    def __init__(self, subscriber: Subscriber, channel: str, callback: Callback) -> None:
        self._subscriber = subscriber
        self.channel = channel
        self.callback = callback

    def close(self) -> None:
        """Ends the interest; the last listener's end unsubscribes the channel."""
        self._subscriber.remove(self)


class Subscriber:
    """Run it as `async with`: the connection lives in a task that the block owns."""

    def __init__(self, url: str) -> None:
        self._address = RedisAddress.parse(url)
        self._protocol: RespProtocol | None = None
        self._channels: dict[str, set[Subscription]] = {}
        self._acks: dict[str, asyncio.Future[None]] = {}
        self._owed: dict[str, int] = {}  # SUBSCRIBEs that this connection has not answered yet
        self._missed: set[str] = set()  # channels whose listeners must hear of a gap at the ack
        self._lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_heard = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._drop()

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    async def subscribe(self, channel: str, callback: Callback) -> Subscription:
        """Listens to `channel`; returns once Redis has acknowledged it.

        Callbacks run on the event loop, must not block and must not raise.

        Raises:
            RedisUnavailable: no acknowledgement in time. Nothing stays subscribed.
        """
        subscription = Subscription(self, channel, callback)
        listeners = self._channels.setdefault(channel, set())
        listeners.add(subscription)
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._acknowledged(channel)
        except TimeoutError as error:
            subscription.close()
            raise RedisUnavailable("Redis does not acknowledge a subscription") from error
        except BaseException:
            subscription.close()
            raise
        return subscription

    def subscribe_soon(self, channel: str, callback: Callback) -> Subscription:
        """Listens to `channel` as soon as Redis can be reached; the callback hears None then."""
        subscription = Subscription(self, channel, callback)
        self._channels.setdefault(channel, set()).add(subscription)
        self._missed.add(channel)
        if self._protocol is not None:
            self._request_ack(channel)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """See `Subscription.close`."""
        listeners = self._channels.get(subscription.channel)
        if listeners is None:
            return
        listeners.discard(subscription)
        if listeners:
            return
        del self._channels[subscription.channel]
        ack = self._acks.pop(subscription.channel, None)
        if ack is not None:
            ack.cancel()
        self._write("UNSUBSCRIBE", subscription.channel)

    async def _acknowledged(self, channel: str) -> None:
        while True:
            await self._connected.wait()
            if not self._connected.is_set():
                continue  # lost again before this task ran
            ack = self._acks.get(channel) or self._request_ack(channel)
            await asyncio.wait([ack])
            if ack.done() and not ack.cancelled():
                return

    def _request_ack(self, channel: str) -> asyncio.Future[None]:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks[channel] = ack
        self._owed[channel] = self._owed.get(channel, 0) + 1
        self._write("SUBSCRIBE", channel)
        return ack

    def _write(self, *command: str) -> None:
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.write(pack(command))

    async def _keep_connected(self) -> None:
        pause_s = 0.05
        while True:
            try:
                await self._connect()
                pause_s = 0.05
                await self._watch()
            except (RedisUnavailable, RedisReplyError) as error:
                log.warning("redis.subscriber_lost", error=str(error))
            self._drop()
            await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    async def _connect(self) -> None:
        self._lost.clear()
        protocol = await open_protocol(self._address, self._deliver, self._lost.set)
        self._protocol = protocol
        self._last_heard = time.monotonic()
        for command in handshake(self._address):
            self._write(*(str(part) for part in command))
        self._owed.clear()
        for channel in self._channels:
            self._request_ack(channel)
        self._missed = set(self._channels)
        self._connected.set()

    async def _watch(self) -> None:
        """Returns when the connection is lost or silent."""
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(PING_INTERVAL_S):
                    await self._lost.wait()
            except TimeoutError:
                if time.monotonic() - self._last_heard > SILENCE_LIMIT_S:
                    raise RedisUnavailable("the subscription went silent") from None
                self._write("PING")
        raise RedisUnavailable("the subscription's connection was lost")

    def _drop(self) -> None:
        self._connected.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        self._owed.clear()
        acks, self._acks = self._acks, {}
        for ack in acks.values():
            ack.cancel()

    def _deliver(self, reply: Any) -> None:
        self._last_heard = time.monotonic()
        if isinstance(reply, RedisReplyError):
            log.warning("redis.subscriber_refused", error=str(reply))
            self._lost.set()
            return
        if not isinstance(reply, list):
            return
        kind = reply[0]
        if kind == b"message":
            for subscription in list(self._channels.get(reply[1].decode(), ())):
                subscription.callback(reply[2])
        elif kind == b"subscribe":
            self._acknowledge(reply[1].decode())

    def _acknowledge(self, channel: str) -> None:
        owed = self._owed.pop(channel, 1) - 1
        if owed:
            # The answer to an earlier listener who left: an UNSUBSCRIBE follows it on the wire.
            self._owed[channel] = owed
            return
        ack = self._acks.get(channel)
        if ack is not None and not ack.done():
            ack.set_result(None)
        if channel in self._missed:
            self._missed.discard(channel)
            for subscription in list(self._channels.get(channel, ())):
                subscription.callback(None)
