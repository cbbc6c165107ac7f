"""Requests as bytes on a socket, so that what no client library would send can be sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any, Self

import orjson

PATIENCE_S = 15.0
_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_MOST_HEAD_BYTES = 1 << 16
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
    """Sends one request; reads to the end, of a stream only the head.

    On a bare socket: where the other side answers and closes before it has read all, what it said
    can still be read after our own writing has failed.
    """
    data = request if isinstance(request, bytes) else request.encode()
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    with socket.socket() as link:
        link.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await loop.sock_connect(link, ("127.0.0.1", port))
            writing = asyncio.create_task(_write(link, data))
            try:
                return _parse(await read(link), began)
            finally:
                writing.cancel()
                await asyncio.wait([writing])


def read_answer(data: bytes) -> Answer:
    """The one answer that these bytes are."""
    return _parse(data, time.monotonic())


async def _write(link: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # answered and closed before it was all sent
        await asyncio.get_running_loop().sock_sendall(link, data)


async def read(link: socket.socket) -> bytes:
    """What is said on a connection to its end; of a stream to the end of its head."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := await asyncio.get_running_loop().sock_recv(link, 1 << 16):
            data += part
            head, ends, _ = bytes(data[:_MOST_HEAD_BYTES]).partition(b"\r\n\r\n")
            if ends and _EVENT_STREAM in head:
                break
    return bytes(data)


def _parse(data: bytes, began: float) -> Answer:
    head, ends, body = data.partition(b"\r\n\r\n")
    assert ends, f"no whole answer: {data[:300]!r}"
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = tuple((n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines))
    status, took_s = int(first.split()[1]), time.monotonic() - began
    if ("content-type", _EVENT_STREAM.decode()) in headers:
        return Answer(status, headers, b"", took_s, is_closed=False)
    if ("transfer-encoding", "chunked") not in headers:
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        assert len(body) == length, "more or less than one answer"
    return Answer(status, headers, body, took_s)


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
