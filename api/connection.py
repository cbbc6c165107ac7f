"""One HTTP connection: bounds the head of a request, and writes a response in one piece.

uvicorn reads heads without any bound, and writes a head and each piece of a body on its own.

Nobody is known before the head is complete, so what a stranger can make us keep or wait for is
decided here: `MAX_HEAD_BYTES`, `HEAD_TIMEOUT_S`. Bodies have bounds of their own in `api.body`.
Who does not take an answer is given up after `STALL_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.problems import problem_body
from shared.lean_event import LeanEvent

CONNECTION: Final = "turnkeep.connection"
MAX_HEAD_BYTES: Final = 65_536
HEAD_TIMEOUT_S: Final = 10.0
STALL_TIMEOUT_S: Final = 30.0
"""A peer that takes nothing of what is unsent for so long loses its connection."""
FLUSH_BYTES: Final = 32_768
"""What is written in one piece of so much leaves at once."""


class HeadTooLargeError(Exception):
    """Raised inside the parser to stop it; never leaves this module."""


class TickWriter:
    """A transport whose writes of one loop tick leave together: system calls are dear."""

    __slots__ = ("_chunks", "_loop", "_stall_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._chunks: list[bytes] = []
        self._stall_timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Leaves at the end of the tick."""
        if not self._chunks:
            self._loop.call_soon(self._flush)
        self._chunks.append(data)
        if len(data) >= FLUSH_BYTES:
            self._flush()  # the transport must be able to say that it is enough

    def close(self) -> None:
        """What was written is sent first, to a peer that takes it."""
        self._flush()
        self._transport.close()
        self.watch_unsent()

    def watch_unsent(self) -> None:
        """Begins to see that what is unsent becomes less. Nothing may be written meanwhile."""
        if self._stall_timer is None:
            self._expect_less(self._transport.get_write_buffer_size())

    def end_watch(self) -> None:
        """Ends what `watch_unsent` began."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _expect_less(self, unsent_bytes: int) -> None:
        self._stall_timer = None
        if unsent_bytes:
            self._stall_timer = self._loop.call_later(STALL_TIMEOUT_S, self._look, unsent_bytes)

    def _look(self, before_bytes: int) -> None:
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes < before_bytes:
            self._expect_less(unsent_bytes)
        else:
            self._stall_timer = None
            self._transport.abort()

    def _flush(self) -> None:
        chunks, self._chunks = self._chunks, []
        if chunks and not self._transport.is_closing():
            self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))


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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the wait for the first head."""
        writer: Any = TickWriter(transport, self.loop)
        super().connection_made(writer)
        self.flow = LeanFlow(writer)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends every wait."""
        self._stop_head_timer()
        if self.cycle is not None:  # or nothing but the collector would free us
            self.cycle.scope.pop(CONNECTION, None)  # type: ignore[typeddict-item]  # ours
        self.pipeline.clear()
        super().connection_lost(exc)
        self.transport.end_watch()  # type: ignore[attr-defined]  # a TickWriter
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """The peer is slower than we are."""
        super().pause_writing()
        self.transport.watch_unsent()  # type: ignore[attr-defined]  # a TickWriter

    def resume_writing(self) -> None:
        """The peer has taken nearly all; of a closing connection the rest is watched as well."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.transport.end_watch()  # type: ignore[attr-defined]  # a TickWriter

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

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed in the dialect of every other error.

        The parser tells of a head before it looks at how the body is framed: a request that it
        refuses after all must not be carried out.
        """
        if self._beginning is not None and self.cycle.more_body:
            self._beginning.cancel()
        too_large = self._head_bytes > MAX_HEAD_BYTES
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
        )

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
