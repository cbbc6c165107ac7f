"""Requests as bytes on a socket, so that what no client library would send can be sent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import orjson

PATIENCE_S = 15.0
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` None: none is sent; `framing` stands in place of its content-length."""

    method: bytes
    target: bytes
    headers: Headers = ()
    body: bytes | None = None
    framing: bytes | None = None
    host: bytes = b"host: test\r\n"

    def with_headers(self, *more: tuple[bytes, bytes]) -> Self:
        return replace(self, headers=(*self.headers, *more))

    def without(self, *names: bytes) -> Self:
        left = tuple(pair for pair in self.headers if pair[0].lower() not in names)
        return replace(self, headers=left)

    def with_body(self, body: bytes) -> Self:
        return replace(self, body=body)

    def with_query(self, query: bytes) -> Self:
        glue = b"&" if b"?" in self.target else b"?"
        return replace(self, target=self.target + glue + query)

    def encode(self) -> bytes:
        framing = self.framing
        if framing is None:
            framing = b"" if self.body is None else b"content-length: %d\r\n" % len(self.body)
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.headers)
        head = b"%b %b HTTP/1.1\r\n" % (self.method, self.target)
        return (
            head
            + self.host
            + b"connection: close\r\n"
            + lines
            + framing
            + b"\r\n"
            + (self.body or b"")
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `took_s` runs from the first byte sent to the last one read."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    took_s: float
    is_closed: bool = field(default=True)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def told(self) -> tuple[Any, ...]:
        """All that may differ between two answers that must be one: but for the clock."""
        return self.status, tuple(h for h in self.headers if h[0] != "date"), self.body


async def send(port: int, request: Request | bytes) -> Answer:
    """Sends one request; reads to the end, of a stream only the head."""
    data = request if isinstance(request, bytes) else request.encode()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writing = asyncio.create_task(_write(writer, data))
            try:
                return await _read(reader, began)
            finally:
                writing.cancel()
                await asyncio.wait([writing])
    finally:
        writer.transport.abort()


async def send_all(port: int, requests: Iterable[Request | bytes]) -> list[Answer]:
    return [await send(port, request) for request in requests]


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # answered and closed before it was all sent
        writer.write(data)
        await writer.drain()


async def _read(reader: asyncio.StreamReader, began: float) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = tuple((n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines))
    status = int(first.split()[1])
    if ("content-type", "text/event-stream; charset=utf-8") in headers:
        return Answer(status, headers, b"", time.monotonic() - began, is_closed=False)
    if ("transfer-encoding", "chunked") in headers:
        return Answer(status, headers, await reader.read(), time.monotonic() - began)
    length = next((int(value) for name, value in headers if name == "content-length"), None)
    body = b"" if not length else await reader.readexactly(length)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(1) == b"", "more than one answer"
    return Answer(status, headers, body, time.monotonic() - began)


def require_problem(answer: Answer, name: object = "") -> None:
    """A 4xx in the surface's own dialect."""
    told = (name, answer.status, answer.body[:300])
    assert 400 <= answer.status < 500, told
    assert answer.header("content-type") == "application/json", told
    body = answer.json
    if answer.status == 422:
        assert set(body) == {"detail"}, told
        assert body["detail"], told
        for item in body["detail"]:
            assert set(item) == {"loc", "msg", "type"}, told
            assert item["loc"][0] in {"path", "query", "body", "header"}, told
    else:
        assert {"detail", "title", "status", "type"} <= set(body), told
        assert body["status"] == answer.status, told
        assert isinstance(body["detail"], str), told
