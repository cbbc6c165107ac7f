"""The only writer of SSE responses: first bytes at once, keep-alives, maximum age, drain.

One response is one reader of one turn. It ends with the turn, or with a reconnect hint; a client
that leaves, or that stops reading for `send_timeout_s`, loses its response and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.streams.encoder import StreamEncoder
from shared.errors import NotAuthenticated, PostgresUnavailable, TurnNotFound
from shared.metrics import Metrics
from shared.service.follow import Follower, FollowHub
from shared.settings import Settings
from shared.turn.events import START, Cursor
from shared.turn.model import Turn

log = structlog.get_logger(__name__)

CREDENTIAL_CHECK_S: Final = 4.0
"""How often a stream asks for its credential. The answer may be a second old (`require_valid`):
a revoked one loses its streams within 5 s."""
_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What every stream of a process shares."""

    hub: FollowHub
    settings: Settings
    metrics: Metrics
    is_draining: Callable[[], bool]


class EventStreamResponse(Response):
    """Streams a turn's events from `after`; `position` is told first when the turn waits."""

    media_type = None

    def __init__(
        self,
        context: StreamContext,
        turn: Turn,
        encoder: StreamEncoder,
        *,
        after: Cursor = START,
        position: int | None = None,
        check_credential: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._context = context
        self._turn = turn
        self._encoder = encoder
        self._after = after
        self._position = position
        self._check_credential = check_credential
        self._client_left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream; returns when it has ended or the client has left."""
        gauge = self._context.metrics.open_streams
        gauge.inc()
        try:
            async with self._context.hub.follow(self._turn, self._after) as follower:
                watch = asyncio.create_task(self._watch_client(receive, follower))
                try:
                    await self._stream(follower, send)
                except (TimeoutError, OSError):
                    log.info("stream.client_stalled", turn_id=str(self._turn.id))
                finally:
                    watch.cancel()
                    await asyncio.wait([watch])
        finally:
            gauge.dec()

    async def _watch_client(self, receive: Receive, follower: Follower) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._client_left = True
        follower.interrupt()

    async def _stream(self, follower: Follower, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        first = self._encoder.open(self._after)
        if self._position is not None:
            first += self._encoder.queued(self._position)
        await self._send(send, first)
        last_bytes = await self._relay(follower, send)
        if not self._client_left:
            async with asyncio.timeout(self._context.settings.send_timeout_s):
                await send({"type": "http.response.body", "body": last_bytes})

    async def _relay(self, follower: Follower, send: Send) -> bytes:
        """Passes events on until the end; returns what is left to say."""
        settings = self._context.settings
        loop = asyncio.get_running_loop()
        began = spoke = checked = loop.time()
        while not follower.is_done.is_set():
            batches = await follower.read(min(settings.keep_alive_s, CREDENTIAL_CHECK_S))
            now = loop.time()
            if batches:
                await self._send(send, b"".join(map(self._encoder.encode, batches)))
                spoke = loop.time()
            elif now - spoke >= settings.keep_alive_s:
                await self._send(send, self._encoder.keep_alive())
                spoke = now
            if self._client_left:
                return b""
            if now - checked >= CREDENTIAL_CHECK_S:
                checked = now
                if not await self._may_go_on():
                    return b""
            if self._context.is_draining() or now - began >= settings.stream_max_age_s:
                return b"" if follower.is_done.is_set() else self._encoder.reconnect()
        return b""

    async def _may_go_on(self) -> bool:
        try:
            await self._check_credential()
        except (NotAuthenticated, TurnNotFound):
            return False
        except PostgresUnavailable:
            return True
        return True

    async def _send(self, send: Send, data: bytes) -> None:
        if data and not self._client_left:
            async with asyncio.timeout(self._context.settings.send_timeout_s):
                await send({"type": "http.response.body", "body": data, "more_body": True})
