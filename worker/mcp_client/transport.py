"""HTTP of the MCP library, sent through the guard of docs/outbound.md. Loaded at first use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx2

from shared.outbound.client import BODY_BYTES_CAP, OURS_TO_SET, GuardedClient, OutboundStream
from shared.outbound.errors import BadAnswer, OutboundFailed

MAX_ANSWER_BYTES: Final = BODY_BYTES_CAP
"""Of one answer, a stream of events included."""
_NOT_PACKED: Final = {"", "identity"}


@dataclass(slots=True)
class Trouble:
    """What is wrong with a server's last answer: `told` may be shown, `detail` is for our log.

    The library keeps it to itself.
    """

    told: str | None = None
    detail: str | None = None

    def note(self, error: OutboundFailed) -> None:
        self.told, self.detail = str(error), f"{type(error).__name__}: {error.detail}"


def guarded_http(
    outbound: GuardedClient, token: str | None, trouble: Trouble
) -> httpx2.AsyncClient:
    """A client for one server. The caller bounds the time, and closes it."""
    return httpx2.AsyncClient(
        transport=_GuardedTransport(outbound, trouble),
        headers={} if token is None else {"authorization": f"Bearer {token}"},
        timeout=None,
        trust_env=False,
    )


class _GuardedTransport(httpx2.AsyncBaseTransport):
    """Each request is one of the guard's own, on a connection of its own."""

    def __init__(self, outbound: GuardedClient, trouble: Trouble) -> None:
        self._outbound = outbound
        self._trouble = trouble

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends what asks or ends a session.

        A GET would open the stream by which a server asks its client: we answer nothing, so the
        server is said, as the protocol allows it to say, not to have one.

        Raises:
            OutboundFailed: nothing was sent, or no answer came.
        """
        if request.method == "GET":
            return httpx2.Response(HTTPStatus.METHOD_NOT_ALLOWED, request=request)
        trouble = self._trouble
        trouble.told = trouble.detail = None
        try:
            answer = await self._send(request)
        except OutboundFailed as error:
            trouble.note(error)
            raise
        if answer.status >= HTTPStatus.BAD_REQUEST:
            trouble.told = trouble.detail = f"It answers with HTTP status {answer.status}"
        return httpx2.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, trouble),
            request=request,
        )

    async def _send(self, request: httpx2.Request) -> OutboundStream:
        answer = await self._outbound.open(
            request.method,
            str(request.url),
            headers={k: v for k, v in request.headers.items() if k.lower() not in OURS_TO_SET},
            content=await request.aread(),
            max_body_bytes=MAX_ANSWER_BYTES,
        )
        packing = dict(answer.headers).get("content-encoding", "")
        if packing.lower() not in _NOT_PACKED:
            await answer.aclose()
            raise BadAnswer("compressed, though it was asked not to be")
        return answer


class _Body(httpx2.AsyncByteStream):
    def __init__(self, answer: OutboundStream, trouble: Trouble) -> None:
        self._answer = answer
        self._trouble = trouble

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.chunks():
                yield chunk
        except OutboundFailed as error:
            self._trouble.note(error)
            raise

    async def aclose(self) -> None:
        await self._answer.aclose()
