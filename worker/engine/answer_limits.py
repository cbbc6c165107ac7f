"""Bounds on what a provider sends, kept before any library reads it.

The SDKs read error bodies whole, hold an event of a stream until its end, and unpack what is
compressed, all without a limit; any of these can take a worker's memory within a deadline.
Imported lazily, with the SDKs: see `providers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

import httpx2
from pydantic_ai.models import create_async_httpx2_client

from shared.errors import TurnFailed

ERROR_BODY_MAX_BYTES: Final = 65_536
"""The rest of an error's body is not read: its status and its beginning say all."""
_NOT_PACKED: Final = {"", "identity"}


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Of one call: bytes of one line, which an event of a stream is, and bytes of everything."""

    line_bytes: int
    total_bytes: int

    @classmethod
    def for_log(cls, log_max_bytes: int) -> AnswerLimits:
        """What suits a log of so many bytes.

        Providers wrap a word of 5 bytes in some 300, the log in 40, so that the log is full first.
        """
        return cls(line_bytes=log_max_bytes // 2, total_bytes=log_max_bytes * 8)


def bounded_client(limits: AnswerLimits) -> httpx2.AsyncClient:
    """pydantic-ai's usual client, whose responses keep the limits. The caller closes it."""

    async def bound(response: httpx2.Response) -> None:
        response.stream = _Bounded(response, limits)

    client = create_async_httpx2_client()
    client.headers["accept-encoding"] = "identity"
    client.event_hooks = {**client.event_hooks, "response": [bound]}
    return client


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response, limits: AnswerLimits) -> None:
        self._stream = cast("httpx2.AsyncByteStream", response.stream)
        chunks: AsyncIterator[bytes]
        if not response.is_success:
            response.headers.pop("content-encoding", None)  # left packed: nobody reads it closely
            chunks = _beginning(self._stream)
        elif response.headers.get("content-encoding", "").lower() in _NOT_PACKED:
            chunks = _within(self._stream, limits)
        else:
            chunks = _Refused()
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _within(stream: httpx2.AsyncByteStream, limits: AnswerLimits) -> AsyncIterator[bytes]:
    """The stream's chunks.

    Raises:
        TurnFailed: `output_limit`, a line or the whole exceeds its limit.
    """
    total = line = 0
    async for chunk in stream:
        line_end = chunk.rfind(b"\n")
        line = line + len(chunk) if line_end < 0 else len(chunk) - line_end - 1
        total += len(chunk)
        if line > limits.line_bytes or total > limits.total_bytes:
            raise TurnFailed("output_limit", "The model's answer exceeds the size limit")
        yield chunk


async def _beginning(stream: httpx2.AsyncByteStream) -> AsyncIterator[bytes]:
    left = ERROR_BODY_MAX_BYTES
    async for chunk in stream:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return


class _Refused(AsyncIterator[bytes]):
    """Raises while it is read: what is raised before that passes for a broken connection."""

    async def __anext__(self) -> bytes:
        message = "The provider compresses its answer though it was asked not to"
        raise TurnFailed("model_error", message)
