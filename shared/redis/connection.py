"""One auto-pipelining connection to Redis: commands of a loop tick leave in one write.

Replies are matched by order alone, so a caller that is cancelled never shifts anybody's reply:
its future is simply not listened to any more. An unanswered command closes the connection after
its deadline, and everybody waiting gets `RedisUnavailable`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import structlog

from shared.errors import RedisUnavailable

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S: Final = 2.0
REPLY_TIMEOUT_S: Final = 5.0
_RETRY_PAUSE_S: Final = 0.25
_MAX_PENDING: Final = 100_000

Argument = str | bytes | int | float


class RedisReplyError(Exception):
    """Redis answered a command with an error. The first word is its kind (`NOSCRIPT`, `OOM`, …)."""

    @property
    def kind(self) -> str:
        return str(self).partition(" ")[0]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed Redis URL."""

    host: str | None
    port: int
    path: str | None
    username: str | None
    password: str | None
    database: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Reads `redis://`, `rediss://` and `unix://` URLs.

        Raises:
            ValueError: the URL is none of these.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("a Redis URL starts with redis://, rediss:// or unix://")
        is_unix = parts.scheme == "unix"
        query = parse_qs(parts.query)
        in_path = "0" if is_unix else parts.path.strip("/") or "0"
        return cls(
            host=None if is_unix else parts.hostname or "127.0.0.1",
            port=0 if is_unix else parts.port or 6379,
            path=unquote(parts.path) if is_unix else None,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=int(query.get("db", [in_path])[0]),
            tls=parts.scheme == "rediss",
        )


class RespProtocol(asyncio.Protocol):
    """Bytes in, replies out. Knows nothing of commands."""

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader(replyError=RedisReplyError)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream transports only

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()


async def open_protocol(
    address: RedisAddress, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
) -> RespProtocol:
    """Connects within `CONNECT_TIMEOUT_S`.

    Raises:
        RedisUnavailable: nobody answers there.
    """
    loop = asyncio.get_running_loop()

    def build() -> RespProtocol:
        return RespProtocol(on_reply, on_lost)

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.path is not None:
                _, protocol = await loop.create_unix_connection(build, address.path)
            else:
                tls = ssl.create_default_context() if address.tls else None
                host = address.host or "127.0.0.1"
                _, protocol = await loop.create_connection(build, host, address.port, ssl=tls)
    except (OSError, TimeoutError) as error:
        raise RedisUnavailable("Redis cannot be reached") from error
    return protocol


def pack(command: tuple[Argument, ...]) -> bytes:
    """One command as bytes of the protocol."""
    # The stub takes tuples of one member only.
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def handshake(address: RedisAddress) -> list[tuple[Argument, ...]]:
    """Commands that make a fresh connection ours."""
    commands: list[tuple[Argument, ...]] = []
    if address.password is not None:
        user = (address.username,) if address.username else ()
        commands.append(("AUTH", *user, address.password))
    if address.database:
        commands.append(("SELECT", address.database))
    return commands


class RedisConnection:
    """Commands over one connection, opened when first needed and again after a loss."""

    def __init__(self, url: str, *, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self._address = RedisAddress.parse(url)
        self._reply_timeout_s = reply_timeout_s
        self._protocol: RespProtocol | None = None
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._outbox: list[bytes] = []
        self._opening: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._closed = False
        self._is_refused = False

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    @property
    def is_ready(self) -> bool:
        """Connected and greeted: a command sent now is a command of this connection."""
        return self._protocol is not None and self._opening is None

    async def call(self, *command: Argument) -> Any:
        """Reply to one command.

        Raises:
            RedisUnavailable: no connection, or no reply in time. The command may have run.
            RedisReplyError: Redis refused it.
        """
        if not self.is_ready:
            await self._ensure_open()
        return await self._send(*command)

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """As `call`, without a task to wait in: the command leaves with this tick's others.

        Does not connect: where `is_ready` is false, the future has failed already. Nobody needs to
        read its error.
        """
        if not self.is_ready:
            return _failed("Redis is not connected")
        return self._send(*command)

    def _send(self, *command: Argument) -> asyncio.Future[Any]:
        if self._protocol is None or len(self._waiting) >= _MAX_PENDING:
            return _failed("Redis is not connected")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(pack(command))
        self._waiting.append((time.monotonic() + self._reply_timeout_s, future))
        if self._watchdog is None:
            self._arm_watchdog(self._reply_timeout_s)
        return future

    async def close(self) -> None:
        """Closes the connection for good; whoever still waits gets `RedisUnavailable`."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._drop("closed")

    async def _ensure_open(self) -> None:
        if self._closed:
            raise RedisUnavailable("the connection was closed")
        if self._opening is None:
            if time.monotonic() < self._retry_at:
                raise RedisUnavailable("Redis cannot be reached")
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if task.cancelled():
            return
        if task.exception() is not None:
            self._retry_at = time.monotonic() + _RETRY_PAUSE_S

    async def _open(self) -> None:
        protocol: RespProtocol | None = None

        def lost() -> None:
            if self._protocol is protocol:
                self._drop("connection lost")

        self._is_refused = False
        protocol = await open_protocol(self._address, self._deliver, lost)
        transport = protocol.transport
        if transport is None or self._is_refused or transport.is_closing():
            if transport is not None:
                transport.abort()
            raise RedisUnavailable("Redis takes no connection")
        self._protocol = protocol
        replies = [self._send(*command) for command in handshake(self._address)]
        try:
            for reply in replies:
                await reply
            await self._greet()
        except RedisReplyError as error:
            self._drop("handshake refused")
            raise RedisUnavailable(f"Redis refuses the connection: {error.kind}") from error

    async def _greet(self) -> None:
        """Hook: runs on every new connection before `call` returns to anyone."""

    def _flush(self) -> None:
        if self._protocol is not None and self._protocol.transport is not None and self._outbox:
            self._protocol.transport.write(b"".join(self._outbox))
        self._outbox.clear()

    def _deliver(self, reply: Any) -> None:
        if not self._waiting:
            # Its last word on a connection that it does not want: it has too many.
            self._is_refused = True
            self._drop("said what nobody asked")
            return
        _, future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, RedisReplyError):
            future.set_exception(reply)
            future.exception()  # read here, as in `_drop`
        else:
            future.set_result(reply)

    def _drop(self, reason: str) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._outbox.clear()
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(RedisUnavailable(f"Redis: {reason}"))
                future.exception()  # read here, so that a caller that left does not cause a warning

    def _arm_watchdog(self, delay_s: float) -> None:
        self._watchdog = asyncio.get_running_loop().call_later(delay_s, self._check_deadline)

    def _check_deadline(self) -> None:
        self._watchdog = None
        if not self._waiting:
            return
        left_s = self._waiting[0][0] - time.monotonic()
        if left_s <= 0:
            self._drop("no reply in time")
        else:
            self._arm_watchdog(left_s)


def _failed(reason: str) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(RedisUnavailable(reason))
    future.exception()  # read here: the caller may not want to know
    return future
