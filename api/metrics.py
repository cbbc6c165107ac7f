"""`/metrics`, and the middleware that counts requests by route template, never by raw path."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.state import state_of
from shared.metrics import Metrics

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def serve_metrics(request: Request) -> Response:
    """This process' metrics in the Prometheus text format."""
    headers = {"content-type": CONTENT_TYPE_LATEST}
    return Response(generate_latest(state_of(request).metrics.registry), headers=headers)


class RequestCounter:
    """One count and one duration, to the response's head, per request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Finding a metric by its labels costs more than counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, method: str, route: str, status: int, took_s: float) -> None:
        """Counts an answer; `route` is the template of the path."""
        children = self._children.get((method, route, status))
        if children is None:
            children = self._children[method, route, status] = (
                self._metrics.http_requests.labels(method=method, route=route, status=status),
                self._metrics.http_duration.labels(method=method, route=route),
            )
        requests, duration = children
        requests.inc()
        duration.observe(took_s)


class CountRequests:
    """ASGI middleware: counts what goes the ordinary way."""

    def __init__(self, app: ASGIApp, counter: RequestCounter) -> None:
        self._app = app
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; observes the head of the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unknown")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                took_s = time.perf_counter() - began
                self._counter.count(method, route, message["status"], took_s)
            await send(message)

        await self._app(scope, receive, observe)
