"""The only writer of SSE responses: first bytes at once, keep-alives, maximum age, drain.

One response is one reader of one turn. It ends with the turn, or with a reconnect hint; a client
that leaves, or that stops reading for `send_timeout_s`, loses its response and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

import structlog
from starlette.types import Receive, Scope, Send

from api.admission import Seats
from api.connection import CONNECTION, BoundedConnection
from api.stream_keeper import StreamKeeper
from api.streams.encoder import StreamEncoder
from shared.errors import TurnNotFound
from shared.metrics import Metrics
from shared.service.follow import Follower, FollowHub
from shared.settings import Settings
from shared.turn.events import EventBatch
from shared.turn.model import Principal

log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 32_768
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What every stream of a process shares."""

    hub: FollowHub
    keeper: StreamKeeper
    seats: Seats
    settings: Settings
    metrics: Metrics
    is_draining: Callable[[], bool]


class EventStreamResponse:
    """An ASGI response: the events of `follower`'s turn; `position` is told first when it waits."""

    __slots__ = (
        "_began",
        "_client_left",
        "_context",
        "_encoder",
        "_follower",
        "_is_old",
        "_limit",
        "_max_age_s",
        "_must_speak",
        "_position",
        "_receive",
        "_revoked",
        "_sending_since",
        "_spoke",
        "_watch",
        "counted_as",
        "key_id",
        "raw_headers",
        "status_code",
    )

    def __init__(
        self,
        context: StreamContext,
        follower: Follower,
        encoder: StreamEncoder,
        principal: Principal,
        *,
        position: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = HTTPStatus.OK.value
        self.raw_headers = _HEADERS.copy()
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.encode(), value.encode()))
        self.key_id: UUID = principal.key_id
        self.counted_as = principal.counted_as
        self._max_age_s = context.settings.stream_max_age_s
        if principal.expires_at is not None:  # nobody but the token itself knows when it ends
            self._max_age_s = min(self._max_age_s, principal.expires_at - time.time())
        self._context = context
        self._follower = follower
        self._encoder = encoder
        self._position = position
        self._client_left = False
        self._revoked = False
        self._is_old = False
        """The reader is asked to come again."""
        self._must_speak = False
        """Silent for `keep_alive_s`."""
        self._began = self._spoke = 0.0
        self._sending_since: float | None = None
        self._limit = asyncio.timeout(None)
        self._receive: Receive | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream; returns when it has ended or the client has left."""
        context = self._context
        connection: BoundedConnection | None = scope.get(CONNECTION)
        if connection is not None and connection.transport.is_closing():
            connection = None  # it has left already: `receive` tells
        if connection is None:
            self._receive = receive
        else:
            connection.on_lost = self._leave
            connection.flow.resume_reading()  # a large body may have paused it; leaving is read too
            scope["headers"].clear()  # read by now: a stream may stay for long
        self._began = self._spoke = asyncio.get_running_loop().time()
        place = context.keeper.add(self)
        context.metrics.open_streams.inc()
        try:
            with context.seats.hold(self.counted_as):
                async with self._follower, self._limit:
                    await self._stream(send)
        except (TimeoutError, OSError):
            log.info("stream.client_stalled", turn_id=str(self._follower.turn_id))
        finally:
            if connection is not None:
                connection.on_lost = None
            context.keeper.remove(self, place)
            context.metrics.open_streams.dec()
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.wait([self._watch])

    # -- what the keeper calls

    def look(self, now: float) -> None:
        """See `api.stream_keeper.Stream`."""
        settings = self._context.settings
        if self._watch is None and self._receive is not None:
            # Only under a server that is not ours, and not at once: most streams are short.
            self._watch = asyncio.create_task(self._watch_client(self._receive))
        if self._sending_since is not None:
            # Our own connections are closed by what their clients take, not by one send.
            is_ours = self._receive is None
            if not is_ours and now - self._sending_since >= settings.send_timeout_s:
                self._limit.reschedule(now)
        elif now - self._began >= self._max_age_s:
            self._is_old = True
            self._follower.interrupt()
        elif now - self._spoke >= settings.keep_alive_s:
            self._must_speak = True
            self._follower.interrupt()

    def revoke(self) -> None:
        """See `api.stream_keeper.Stream`."""
        self._revoked = True
        self._follower.interrupt()

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._leave()

    def _leave(self) -> None:
        self._client_left = True
        self._follower.interrupt()

    # -- the response

    async def _stream(self, send: Send) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        self._sending_since = None
        self.raw_headers = []  # said, and no longer needed
        first = self._encoder.open(self._follower.cursor)
        if self._position is not None:
            first += self._encoder.queued(self._position)
        await self._send(send, first)
        last_bytes = b""
        try:
            last_bytes = await self._relay(send)
        except TurnNotFound:
            log.info("stream.turn_deleted", turn_id=str(self._follower.turn_id))
        await self._send(send, last_bytes, is_last=True)

    async def _relay(self, send: Send) -> bytes:
        """Passes events on until the end; returns what is left to say."""
        follower = self._follower
        while not follower.is_done.is_set():
            batches = await follower.read()
            if self._client_left or self._revoked:
                return b""
            if batches:
                data = await self._send_all_but_last(send, batches)
                if follower.is_done.is_set() or self._encoder.is_over:
                    return data
                await self._send(send, data)
            elif self._must_speak:
                await self._send(send, self._encoder.keep_alive())
            if self._is_old or self._context.is_draining():
                return self._encoder.reconnect()
        return b""

    async def _send_all_but_last(self, send: Send, batches: list[EventBatch]) -> bytes:
        """Encodes and sends in pieces, so that a slow reader costs a piece and not a page."""
        pieces: list[bytes] = []
        size = 0
        for batch in batches:
            if size >= PIECE_BYTES:
                await self._send(send, b"".join(pieces))
                pieces, size = [], 0
            pieces.append(self._encoder.encode(batch))
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _send(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        """Sends; who does not take it for `send_timeout_s` is given up by `look`."""
        if self._client_left or not (data or is_last):
            return
        clock = asyncio.get_running_loop().time
        self._sending_since = clock()
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._sending_since = None
        self._spoke = clock()
        self._must_speak = False
