"""A load client that costs little: one `asyncio.Protocol` per connection, one request at a time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import uvloop

from benchmarks.answers import Answer, Ask

_END_OF_CHUNKS = b"0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class LoadResult:
    """What one run under load came to."""

    client: str
    done: int
    took_s: float
    p50_ms: float
    p99_ms: float
    bad: int
    fault: str

    @property
    def rate(self) -> float:
        return self.done / self.took_s


@dataclass
class Tally:
    """What the connections of one run have seen: (end, duration) of each answer in seconds."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def durations_s(self) -> list[float]:
        return [duration for _, duration in self.answers]


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Connection(asyncio.Protocol):
    """Sends `next_request()` again and again until it returns None, and reads each answer whole."""

    def __init__(
        self, next_request: Callable[[], bytes | None], answer: Answer, tally: Tally
    ) -> None:
        self._next_request = next_request
        self._answer = answer
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._pieces: list[bytes] = []
        self._left = -1
        self._has_head = False
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._tally.faults.append("connection broken")
            self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if not self._has_head:
            self._read_head()
        elif self._left >= 0:
            self._left -= len(data)
        if self._has_head and self._is_whole(data):
            self._complete()

    def _is_whole(self, data: bytes) -> bool:
        if self._left >= 0:
            return self._left == 0
        if len(data) < len(_END_OF_CHUNKS):
            data = b"".join(self._pieces[-6:])
        return data.endswith(_END_OF_CHUNKS)

    def _read_head(self) -> None:
        so_far = b"".join(self._pieces)
        head, separator, rest = so_far.partition(_HEAD_END)
        if not separator:
            return
        self._has_head = True
        self._pieces = [so_far]
        place = head.lower().find(_LENGTH)
        if place >= 0:
            start = place + len(_LENGTH)
            end = head.find(b"\r", start)
            self._left = int(head[start:] if end < 0 else head[start:end]) - len(rest)
        elif b" 304 " in head[:16]:
            self._left = 0

    def _complete(self) -> None:
        now = time.perf_counter()
        self._tally.answers.append((now, now - self._sent_at))
        head, _, body = b"".join(self._pieces).partition(_HEAD_END)
        fault = self._answer.find_fault(int(head[9:12]), body)
        if fault is not None:
            self._tally.faults.append(fault)
        self._send()

    def _send(self) -> None:
        request = self._next_request()
        if request is None or self._transport is None:
            if not self.finished.done():
                self.finished.set_result(None)
            if self._transport is not None:
                self._transport.close()
            return
        self._pieces, self._left, self._has_head = [], -1, False
        self._sent_at = time.perf_counter()
        self._transport.write(request)


async def drive(
    port: int,
    ask: Ask,
    prefix: str,
    *,
    connections: int,
    seconds: float,
    ramp_s: float = 0.0,
) -> Tally:
    """Keeps `connections` busy for `seconds`; with a ramp they begin one after the other."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    numbers = itertools.count()
    began = time.perf_counter()
    until = began + seconds

    def next_request() -> bytes | None:
        return ask.render(next(numbers), prefix) if time.perf_counter() < until else None

    opened = []
    for number in range(connections):
        if ramp_s:
            due = began + ramp_s * number / connections
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        _, protocol = await loop.create_connection(
            lambda: Connection(next_request, ask.answer, tally), "127.0.0.1", port
        )
        opened.append(protocol)
    async with asyncio.timeout(seconds + _PATIENCE_S):
        await asyncio.wait([protocol.finished for protocol in opened])
    return tally


def run_python(port: int, ask: Ask, prefix: str, *, connections: int, seconds: float) -> LoadResult:
    """The same as `run_wrk` where there is no wrk; costs the shared cores more."""
    began = time.perf_counter()
    tally = uvloop.run(drive(port, ask, prefix, connections=connections, seconds=seconds))
    took_s = time.perf_counter() - began
    return LoadResult(
        client="python",
        done=len(tally.answers),
        took_s=took_s,
        p50_ms=percentile(tally.durations_s, 0.5) * 1000,
        p99_ms=percentile(tally.durations_s, 0.99) * 1000,
        bad=len(tally.faults),
        fault=tally.faults[0] if tally.faults else "",
    )
