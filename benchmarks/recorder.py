"""One kept-alive connection that stamps every piece it receives: for times, not for throughput."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import uvloop

PATIENCE_S = 30.0
END_OF_CHUNKS = b"0\r\n\r\n"
T = TypeVar("T")


class Recorder(asyncio.Protocol):
    """Pieces of one answer with the times at which they came."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self._transport: asyncio.Transport | None = None
        self._came = asyncio.Event()
        self._is_lost = False

    @classmethod
    async def open(cls, port: int) -> Self:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # stream transports only

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._came.set()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))
        self._came.set()

    def send(self, request: bytes) -> float:
        """Begins a new answer; when it was asked for."""
        assert self._transport is not None  # noqa: S101 - connected in `open`
        self.pieces = []
        sent_at = time.perf_counter()
        self._transport.write(request)
        return sent_at

    async def wait_for(self, sign: bytes) -> None:
        """Returns when the answer so far contains `sign`."""
        seen, tail = 0, b""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._came.clear()
                tail += b"".join(data for _, data in self.pieces[seen:])
                seen = len(self.pieces)
                if sign in tail:
                    return
                tail = tail[-len(sign) :]
                if self._is_lost:
                    raise ConnectionError("the server closed the connection")
                await self._came.wait()

    def first_with(self, sign: bytes) -> float:
        """When the first piece with `sign` came."""
        return next(at for at, data in self.pieces if sign in data)

    def last_with(self, sign: bytes) -> float:
        """When the last piece with `sign` came."""
        return next(at for at, data in reversed(self.pieces) if sign in data)

    @property
    def answer(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def run_async(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)
