"""Serves the bytes of an artifact: always to be saved, never as something a browser would show."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.connection import CONNECTION, BoundedConnection
from shared.files.names import content_disposition

log = structlog.get_logger(__name__)

GRACE_S: Final = 30.0
MIN_BYTES_PER_S: Final = 32_768
"""A download takes at most the grace and what its bytes take at this rate: it holds a seat."""
INERT: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
}
"""Whatever the bytes are, a browser neither runs nor guesses them, on this origin or another."""


def entity_tag(row: Any) -> str:
    """By content: an artifact never changes, and equal ones are equal."""
    text = row["inline_text"]
    digest = row["sha256"] if text is None else hashlib.sha256(text.encode()).digest()
    return f'"{digest.hex()}"'


def content_headers(row: Any, tag: str) -> dict[str, str]:
    """All but the length."""
    name = row["original_filename"] or row["title"] or _default_name(row["kind"])
    return {
        **INERT,
        "content-type": row["mime_type"],
        "content-disposition": content_disposition(name),
        "etag": tag,
    }


def _default_name(kind: str) -> str:
    return {"json": "artifact.json", "text": "artifact.txt"}.get(kind, "download")


class FileResponse(Response):
    """A file, piece by piece as the client takes it. `opened` holds what must be given back."""

    def __init__(
        self,
        opened: AsyncExitStack,
        pieces: Any,
        *,
        size_bytes: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(headers={**headers, "content-length": str(size_bytes)})
        self._opened = opened
        self._pieces = pieces
        self._longest_s = GRACE_S + size_bytes / MIN_BYTES_PER_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the head, then the pieces; a connection that is gone, or too slow, ends it."""
        limit = asyncio.timeout(self._longest_s)
        try:
            async with self._opened, limit:
                await self._send(scope, send)
        except TimeoutError:
            if not limit.expired():
                raise
            log.info("download.too_slow")
            connection: BoundedConnection | None = scope.get(CONNECTION)
            if connection is not None:
                connection.transport.abort()
                await asyncio.sleep(0)  # the server learns of it, and misses no end

    async def _send(self, scope: Scope, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        if scope["method"] != "HEAD":
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
