"""A small HTTP client for many readers at once: each response stamps its bytes as they are read.

One connection per exchange. Times are the event loop's clock, which all exchanges share.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import httptools
import orjson

PATIENCE_S = 30.0


class Disconnected(ConnectionError):
    """The connection ended before the response did."""


class Frame(NamedTuple):
    """One SSE frame; a comment or a frame without data has neither `event` nor `data`."""

    at: float
    id: str
    event: str
    data: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    at: float
    """When its last bytes were read."""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class _Exchange(asyncio.Protocol):
    """One request and its response."""

    def __init__(self, request: bytes, *, is_stream: bool) -> None:
        self._request = request
        self._is_stream = is_stream
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.frames: collections.deque[Frame] = collections.deque()
        self.at = 0.0
        self.is_over = False
        self.is_complete = False
        self.has_head = False
        self.transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.at = self._clock()
        self._parser.feed_data(data)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        self._news.set()

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        if not self._is_stream or self.status != 200:
            self.body += body
            return
        *frames, self._rest = (self._rest + body).split(b"\n\n")
        self.frames.extend(_parse_frame(frame, self.at) for frame in frames)

    def on_message_complete(self) -> None:
        self.is_complete = self.is_over = True

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    async def wait(self) -> None:
        """Until something new was read."""
        await self._news.wait()
        self._news.clear()


def _parse_frame(frame: bytes, at: float) -> Frame:
    id_ = event = ""
    data: list[bytes] = []
    for line in frame.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"data":
            data.append(value)
        elif name == b"id":
            id_ = value.decode()
        elif name == b"event":
            event = value.decode()
    return Frame(at, id_, event, b"\n".join(data))


class Stream:
    """An open SSE response: an iterator of its frames until it ends."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.headers = exchange.headers

    @property
    def is_complete(self) -> bool:
        """The server ended the response, in good order."""
        return self._exchange.is_complete

    @property
    def body(self) -> bytes:
        """Of a response that is not 200."""
        return bytes(self._exchange.body)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        exchange = self._exchange
        while not exchange.frames:
            if exchange.is_over:
                raise StopAsyncIteration
            async with asyncio.timeout(PATIENCE_S):
                await exchange.wait()
        return exchange.frames.popleft()

    async def until(self, *events: str) -> Frame:
        """Reads to the next frame of one of `events`."""
        async for frame in self:
            if frame.event in events:
                return frame
        raise Disconnected(f"the stream ended before {' or '.join(events)}")

    async def rest(self) -> list[Frame]:
        """All frames to the end of the response."""
        return [frame async for frame in self]


class Client:
    """Speaks to one API process under one key."""

    def __init__(self, port: int, api_key: str | None, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.api_key = api_key

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.request("POST", path, body, headers=headers)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`body` is JSON unless it is bytes. Underscores in header names stand for hyphens."""
        exchange = await self._send(method, path, body, headers or {}, is_stream=False)
        try:
            async with asyncio.timeout(PATIENCE_S + 60):
                while not exchange.is_over:
                    await exchange.wait()
        finally:
            _abort(exchange)
        if not exchange.is_complete:
            raise Disconnected(f"{method} {path}")
        return Answer(exchange.status, exchange.headers, bytes(exchange.body), exchange.at)

    @asynccontextmanager
    async def stream(self, path: str, body: Any = None, **headers: str) -> AsyncIterator[Stream]:
        """An SSE response, POSTed when there is a body; leaving the block drops the connection."""
        method = "GET" if body is None else "POST"
        exchange = await self._send(method, path, body, headers, is_stream=True)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (exchange.has_head or exchange.is_over):
                    await exchange.wait()
            if not exchange.has_head:
                raise Disconnected(path)
            yield Stream(exchange)
        finally:
            _abort(exchange)

    async def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], *, is_stream: bool
    ) -> _Exchange:
        lines = {"host": f"{self.host}:{self.port}", "connection": "close"}
        if self.api_key is not None:
            lines["authorization"] = f"Bearer {self.api_key}"
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        if method != "GET":
            lines["content-length"] = str(len(content))
        if body is not None:
            lines["content-type"] = "application/json"
        lines |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
        exchange = _Exchange(head.encode() + b"\r\n" + content, is_stream=is_stream)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: exchange, self.host, self.port)
        return exchange


def _abort(exchange: _Exchange) -> None:
    if exchange.transport is not None:
        exchange.transport.abort()


@dataclass(frozen=True, slots=True)
class Told:
    """What a reader of the native protocol was told, checked for gaps and repetitions."""

    status: str
    text: str
    """Of the last attempt."""
    attempts: tuple[int, ...]
    events: tuple[tuple[str, bytes], ...]
    """(id, data) of every stored event, in order."""
    end: Frame


def check_told(frames: list[Frame], *, after: str = "0-0") -> Told:
    """Asserts what every reader is promised: each event once, in order, the end last and once."""
    attempt, seq = (int(part) for part in after.split("-"))
    events: list[tuple[str, bytes]] = []
    attempts: list[int] = []
    text: list[str] = []
    ends = 0
    for frame in frames:
        if not frame.event or frame.event == "turn.queued":
            continue
        assert not ends, f"{frame.event} after the end"
        here = tuple(int(part) for part in frame.id.split("-"))
        expected = {(attempt, seq + 1)}
        if frame.event == "turn.started":
            assert here[0] > attempt, f"attempt {here[0]} announced after {attempt}"
            expected = {(here[0], 1)}
            attempts.append(here[0])
            text = []
        elif frame.event == "turn.ended" and here[0] == attempt + 1:
            expected = {(attempt + 1, 1)}  # forced: the cancel's own attempt says nothing else
        assert here in expected, f"{frame.event} {frame.id} after {attempt}-{seq}"
        attempt, seq = here
        if frame.event == "message.delta":
            text.append(frame.json["text"])
        ends += frame.event == "turn.ended"
        events.append((frame.id, frame.data))
    assert ends == 1, "the stream ended without turn.ended"
    end = frames[-1]
    return Told(end.json["status"], "".join(text), tuple(attempts), tuple(events), end)


def words(count: int) -> str:
    """What a script of `count` deltas says."""
    return "".join(f"w{number} " for number in range(count))
