"""One HTTP connection: bounds the head of a request, and writes a response in one piece.

uvicorn reads heads without any bound, writes a head and each piece of a body on its own, and keeps
what a client does not take for as long as the client likes.

Nobody is known before the head is complete, so what a stranger can make us keep or wait for is
decided here: `MAX_HEAD_BYTES`, `HEAD_TIMEOUT_S`. Bodies have bounds of their own in `api.body`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.admission import soon_s
from api.problems import problem_body, response_to
from shared.lean_event import LeanEvent
from shared.metrics import Metrics

try:
    import fcntl
    import termios
except ImportError:  # absent on Windows
    fcntl = termios = None  # type: ignore[assignment]

CONNECTION: Final = "turnkeep.connection"
MAX_HEAD_BYTES: Final = 65_536
HEAD_TIMEOUT_S: Final = 10.0
FLUSH_BYTES: Final = 32_768
"""What is written in one piece of so much leaves at once."""
MIN_TAKEN_BYTES: Final = 32_768
"""So much of what waits for a client, or all of it, it must take within `send_timeout_s`."""
MAX_UNTAKEN_BYTES: Final = 128 * 1024 * 1024
"""What may wait for all clients of a process. Who lets the most wait is closed first."""
SPARE_CONNECTIONS: Final = 256
"""Beyond the limit: for a refusal that says why, and for what is never refused."""
_VITAL: Final = re.compile(
    rb"/(?:livez|readyz|metrics)|/api/v1/chat/turns/[^/?]+|/api/v1/(?:chat|app)/[^?]+/cancel"
    rb"|/v1/responses/[^/?]+(?:/cancel)?"
)
"""Paths that are never refused for the number of connections: polls and cancels, and health."""


class HeadTooLargeError(Exception):
    """Raised inside the parser to stop it; never leaves this module."""


class TickWriter:
    """A transport whose writes of one loop tick leave together: system calls are dear."""

    __slots__ = ("_chunks", "_loop", "_transport", "written_bytes")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._chunks: list[bytes] = []
        self.written_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Leaves at the end of the tick."""
        if not self._chunks:
            self._loop.call_soon(self._flush)
        self._chunks.append(data)
        self.written_bytes += len(data)
        if len(data) >= FLUSH_BYTES:
            self._flush()  # the transport must be able to say that it is enough

    def close(self) -> None:
        """What was written is sent first."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        chunks, self._chunks = self._chunks, []
        if chunks and not self._transport.is_closing():
            self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def untaken_bytes(self) -> int:
        """What the system has not taken yet, because the client does not."""
        return self._transport.get_write_buffer_size()


class Pipeline(list[Any]):
    """Requests that wait for the one before them: nearly always none, so no 700-byte deque."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        """Adds the request that is last."""
        self.insert(0, item)


class LeanFlow(FlowControl):
    """uvicorn's flow control with a smaller event; its own `__init__` would make the large one.

    A test holds the names.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        writable: Any = LeanEvent()
        writable.set()
        self._is_writable_event = writable


class BoundedConnection(HttpToolsProtocol):
    """Refuses a head (or trailers) that is too large, closes where one does not arrive in time.

    Under `CONNECTION` a request's scope names it: a response may ask to be told when the client
    leaves, which takes no task.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        waiting: Any = Pipeline()
        self.pipeline = waiting
        self.on_lost: Callable[[], None] | None = None
        self._head_bytes = 0
        """Of the present message: what its request line, header fields and trailers have."""
        self._unparsed_bytes = 0
        """Received since the parser last finished a head, a piece of body or a message."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._beginning: asyncio.Task[None] | None = None
        """The request that came with the data at hand: not one step of it has run."""
        self._most_connections = self.limit_concurrency
        self.limit_concurrency = None  # uvicorn's own refusal is plain text
        self._is_surplus = False
        self._must_take_until: float | None = None
        self._must_take_bytes = 0
        """Of all that was written: what must have been taken by then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the wait for the first head."""
        writer: Any = TickWriter(transport, self.loop)
        super().connection_made(writer)
        self.flow = LeanFlow(writer)
        self._expect_head()
        most = self._most_connections
        if most is not None:
            self._is_surplus = len(self.connections) > most
            if len(self.connections) > most + SPARE_CONNECTIONS:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends every wait."""
        self._stop_head_timer()
        if self.cycle is not None:  # or nothing but the collector would free us
            self.cycle.scope.pop(CONNECTION, None)  # type: ignore[typeddict-item]  # ours
        self.pipeline.clear()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parses; what the parser only gathers is bounded as well."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        self._beginning = None
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            # No request came of it: a piece of a head, blank lines, or the rest of a body that was
            # answered early. uvicorn has stopped its own timer.
            self._expect_head()
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request line follows."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Takes (a piece of) the request target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field, or a trailer."""
        self._count_head(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: the request begins."""
        self._unparsed_bytes = 0
        self._stop_head_timer()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]  # ours
        if self._is_surplus:
            self._choose_app()
        super().on_headers_complete()
        arrived: Any = LeanEvent()
        self.cycle.message_event = arrived

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole."""
        self._unparsed_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn's own, and remembers the task for as long as it can be taken back."""
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._beginning = task

    def on_response_complete(self) -> None:
        """May begin the next request of a pipeline, which the data at hand no longer concerns."""
        super().on_response_complete()
        self._beginning = None

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed, in the primary surface's words: no path is certain.

        The parser tells of a head before it looks at how the body is framed: a request that it
        refuses after all must not be carried out.
        """
        if self._beginning is not None and self.cycle.more_body:
            self._beginning.cancel()
        too_large = self._head_bytes > MAX_HEAD_BYTES
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
        )

    @property
    def untaken_bytes(self) -> int:
        """What was written and the client has not taken, beyond what the system keeps for it."""
        writer: Any = self.transport
        untaken: int = writer.untaken_bytes()
        return untaken

    def is_stalled(self, now: float, send_timeout_s: float) -> bool:
        """Whether the client has taken too little of what waits for it. Ask once a second or so."""
        untaken = self.untaken_bytes
        if not untaken:
            self._must_take_until = None
            return False
        writer: Any = self.transport
        taken = writer.written_bytes - untaken - self._count_unacknowledged()
        if self._must_take_until is None or taken >= self._must_take_bytes:
            self._must_take_until = now + send_timeout_s
            self._must_take_bytes = taken + min(untaken, MIN_TAKEN_BYTES)
        return now >= self._must_take_until

    def _count_unacknowledged(self) -> int:
        """What the system holds for the client: it takes more only in steps of 100 KB and more.

        Source: SIOCOUTQ, https://man7.org/linux/man-pages/man7/tcp.7.html#DESCRIPTION, "Ioctls".
        """
        raw = self.transport.get_extra_info("socket")
        if raw is None or fcntl is None:
            return 0
        answer = array.array("i", [0])
        try:
            fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, answer)
        except OSError:  # not such a socket
            return 0
        return answer[0]

    def _choose_app(self) -> None:
        """Beyond the limit only what is vital is served."""
        most = self._most_connections
        self._is_surplus = most is not None and len(self.connections) > most
        if self._is_surplus and not _VITAL.fullmatch(self.url.partition(b"?")[0]):
            self.app = functools.partial(_refuse_connection, self.app)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLargeError

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()  # nobody waits for an answer

    def _refuse(self, status: HTTPStatus) -> None:
        body = problem_body(status, status.phrase)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


async def _refuse_connection(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    metrics: Metrics | None = getattr(getattr(app, "state", None), "metrics", None)
    if metrics is not None:
        metrics.refusals.labels(reason="connections").inc()
    headers = {"retry-after": str(soon_s()), "connection": "close"}
    error = HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections", headers)
    scope["app"] = app
    await response_to(Request(scope), error)(scope, receive, send)


@contextlib.asynccontextmanager
async def end_when_lost(request: Request) -> AsyncIterator[None]:
    """Ends the block when the client leaves, as far as our own server can tell.

    Raises:
        ClientDisconnect: it has left.
    """
    connection: BoundedConnection | None = request.scope.get(CONNECTION)
    if connection is None or connection.transport.is_closing():
        # A server that is not ours, or lost already.
        if await request.is_disconnected():
            raise ClientDisconnect
        yield
        return
    connection.flow.resume_reading()  # a large body may have paused it; leaving is read too
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    try:
        async with limit:
            connection.on_lost = lambda: limit.reschedule(loop.time())
            try:
                yield
            finally:
                connection.on_lost = None
    except TimeoutError:
        if limit.expired():
            raise ClientDisconnect from None
        raise


class StallWatch:
    """Closes the connections of clients that do not take their answers."""

    def __init__(self, send_timeout_s: float, closed: Callable[[], None]) -> None:
        self._send_timeout_s = send_timeout_s
        self._closed = closed

    def look(self, connections: Iterable[BoundedConnection], now: float) -> None:
        """Looks at all of them: 0.2 µs for each that takes what it gets."""
        waiting: list[BoundedConnection] = []
        for connection in connections:
            if connection.is_stalled(now, self._send_timeout_s):
                self._close(connection)
            elif connection.untaken_bytes:
                waiting.append(connection)
        total = sum(connection.untaken_bytes for connection in waiting)
        if total > MAX_UNTAKEN_BYTES:
            for connection in sorted(waiting, key=lambda c: c.untaken_bytes, reverse=True):
                total -= connection.untaken_bytes
                self._close(connection)
                if total <= MAX_UNTAKEN_BYTES:
                    return

    def _close(self, connection: BoundedConnection) -> None:
        connection.transport.abort()
        self._closed()
