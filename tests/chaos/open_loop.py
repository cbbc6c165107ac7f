"""Load that does not wait for its answers: requests leave at a fixed rate, whatever comes back.

A client that sends its next request when the last one is answered slows down with the server, and
so never shows what overload does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

RESET_AT_CLOSE = b"\x01\0\0\0\0\0\0\0"
"""SO_LINGER: on, 0 s. The connection ends with RST."""
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Reply:
    status: int
    retry_after: str | None
    body: bytes
    took_s: float

    @property
    def turn_id(self) -> str:
        return str(json.loads(self.body)["id"])


@dataclass
class Tally:
    """What came back."""

    replies: list[Reply] = field(default_factory=list)
    broken: int = 0

    def count(self) -> dict[int, int]:
        return dict(sorted(Counter(reply.status for reply in self.replies).items()))

    def refused(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.status in {429, 503}]

    def accepted(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.status == 202]

    def lack_retry_after(self) -> int:
        told = ((reply.retry_after or "").isdigit() for reply in self.refused())
        return sum(not is_told for is_told in told)


class Line(asyncio.Protocol):
    """One kept-alive connection, one request at a time; answers have a length or come in chunks."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._data = b""
        self._sent_at = 0.0

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream transports only

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("broken"))
        self.transport = None

    async def ask(self, request: bytes) -> Reply:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._data, self._sent_at = b"", time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            return await self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        status, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = headers.get("content-length")
        is_whole = body.endswith(b"0\r\n\r\n") if length is None else len(body) >= int(length)
        if not is_whole:
            return
        took_s = time.perf_counter() - self._sent_at
        retry_after = headers.get("retry-after")
        self._answer.set_result(Reply(int(status.split()[1]), retry_after, body, took_s))


async def send_at_rate(
    port: int, make_request: Callable[[int], bytes], *, per_s: float, seconds: float
) -> Tally:
    """Sends `per_s` requests a second; each on a connection that is free, or on a new one."""
    tally = Tally()
    idle: list[Line] = []
    loop = asyncio.get_running_loop()

    async def one(number: int) -> None:
        line = None
        try:
            while idle and line is None:
                line = idle.pop()
                line = line if line.is_open else None
            if line is None:
                _, line = await loop.create_connection(Line, "127.0.0.1", port)
            tally.replies.append(await line.ask(make_request(number)))
            idle.append(line)
        except (OSError, TimeoutError):
            tally.broken += 1

    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            delay = began + number / per_s - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(one(number))
    for line in idle:
        if line.transport is not None:
            line.transport.close()
    return tally


async def open_slowly(port: int, request: bytes, *, bytes_per_s: float, seconds: float) -> None:
    """Reads an answer so slowly, with a receive buffer of 4 KB."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    with contextlib.closing(client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        until = loop.time() + seconds
        try:
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, request)
            while loop.time() < until:
                await asyncio.sleep(1.0)
                if bytes_per_s and not await loop.sock_recv(client, int(bytes_per_s)):
                    return
        except OSError:
            return


async def open_and_reset(port: int, request: bytes, *, reads: bool) -> None:
    """Sends a request and ends its connection with RST, at once or with the first byte."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    with contextlib.suppress(OSError), contextlib.closing(client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, request)
        if reads:
            await loop.sock_recv(client, 1)
