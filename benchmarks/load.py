"""A load client that costs little: one `asyncio.Protocol` per connection, one request at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_END_OF_CHUNKS = b"0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


@dataclass
class Tally:
    """What the connections of one run have seen. Times in seconds."""

    done: int = 0
    bad: int = 0
    durations_s: list[float] = field(default_factory=list)
    first_delta_s: list[float] = field(default_factory=list)


def percentile_ms(values_s: list[float], share: float) -> float:
    """Nearest-rank percentile in milliseconds; NaN without values."""
    if not values_s:
        return float("nan")
    ordered = sorted(values_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class Connection(asyncio.Protocol):
    """Sends `next_request()` again and again until it returns None, and reads each answer whole."""

    def __init__(
        self,
        next_request: Callable[[], bytes | None],
        tally: Tally,
        *,
        delta: bytes | None = None,
        deltas: int = 0,
    ) -> None:
        self._next_request = next_request
        self._tally = tally
        self._delta = delta
        self._deltas = deltas
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._first_at = 0.0
        self._seen = 0
        self._head = b""
        self._left = -1
        self._tail = b""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._tally.bad += 1
            self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._delta is not None:
            found = data.count(self._delta)
            if found and not self._seen:
                self._first_at = time.perf_counter()
            self._seen += found
        if self._left < 0:
            data = self._read_head(data)
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._complete()
            return
        self._tail = (self._tail + data[-5:])[-5:]
        if self._tail == _END_OF_CHUNKS:
            self._complete()

    def _read_head(self, data: bytes) -> bytes:
        if self._head.endswith(_HEAD_END):
            return data
        head, separator, rest = (self._head + data).partition(_HEAD_END)
        if not separator:
            self._head = head
            return b""
        self._head = head + separator
        if not head.startswith(b"HTTP/1.1 2"):
            self._tally.bad += 1
        place = head.lower().find(_LENGTH)
        if place >= 0:
            end = head.find(b"\r", place)
            start = place + len(_LENGTH)
            self._left = int(head[start:] if end < 0 else head[start:end])
        return rest

    def _complete(self) -> None:
        now = time.perf_counter()
        tally = self._tally
        tally.done += 1
        tally.durations_s.append(now - self._sent_at)
        if self._delta is not None:
            tally.first_delta_s.append(self._first_at - self._sent_at)
            tally.bad += self._seen != self._deltas
        self._send()

    def _send(self) -> None:
        request = self._next_request()
        if request is None or self._transport is None:
            if not self.finished.done():
                self.finished.set_result(None)
            if self._transport is not None:
                self._transport.close()
            return
        self._head, self._left, self._tail, self._seen = b"", -1, b"", 0
        self._sent_at = time.perf_counter()
        self._transport.write(request)


async def run_load(
    port: int,
    make_request: Callable[[], bytes],
    *,
    connections: int,
    seconds: float,
    most: int | None = None,
    delta: bytes | None = None,
    deltas: int = 0,
) -> tuple[Tally, float]:
    """Keeps `connections` busy for `seconds`, or for `most` requests; tells how long it took."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + seconds

    sent = 0

    def next_request() -> bytes | None:
        nonlocal sent
        if time.perf_counter() >= until or sent == most:
            return None
        sent += 1
        return make_request()

    opened = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: Connection(next_request, tally, delta=delta, deltas=deltas), "127.0.0.1", port
        )
        opened.append(protocol)
    async with asyncio.timeout(seconds + 60):
        await asyncio.wait([protocol.finished for protocol in opened])
    return tally, time.perf_counter() - began


def build_request(
    method: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """One HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
