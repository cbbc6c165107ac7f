"""The busiest operations, found and answered before Starlette's routing.

Starlette passes a request through three layers and up to twenty patterns, and wraps `send` in each.
Here one look into a dictionary finds the operation. What is not found here, and whatever a fast
answer does not want to decide, goes the ordinary way: no answer exists here alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.openapi import Operation
from api.problems import EXCEPTION_HANDLERS
from shared.errors import TurnkeepError

UUID_CHARS: Final = 36

Answer = Callable[[Scope, str, Send], Awaitable[bool]]
"""Answers a request, told its path parameter; False, before any effect: it does not want to."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """An operation with one id in its path. `path` is what metrics call it."""

    operation: Operation
    path: str
    parameter: str
    prefix: str
    suffix: str
    answer: Answer | None


class HotRoutes:
    """ASGI middleware; `operations` are the hot ones, `answers` their fast answers if any."""

    def __init__(
        self, app: ASGIApp, operations: Iterable[Operation], answers: dict[str, Answer]
    ) -> None:
        self._app = app
        self._routes: dict[tuple[str, int], HotRoute] = {}
        for operation in operations:
            prefix, _, rest = operation.path.partition("{")
            parameter, _, suffix = rest.partition("}")
            route = HotRoute(
                operation,
                operation.path,
                parameter,
                prefix,
                suffix,
                answers.get(operation.operation_id),
            )
            key = (operation.method, len(prefix) + UUID_CHARS + len(suffix))
            if key in self._routes:
                raise ValueError(f"{operation.path} cannot be told from another hot route")
            self._routes[key] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes on."""
        route = self._find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        text = scope["path"][len(route.prefix) : len(route.prefix) + UUID_CHARS]
        scope["route"] = route
        if route.answer is not None:
            if not await route.answer(scope, text, send):
                await self._app(scope, receive, send)
            return
        scope["path_params"] = {route.parameter: text}
        request = Request(scope, receive)
        try:
            response = await route.operation.handler(request)
        except (TurnkeepError, HTTPException, ClientDisconnect) as error:
            response = await _handler_of(error)(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> HotRoute | None:
        if scope["type"] != "http":
            return None
        path: str = scope["path"]
        route = self._routes.get((scope["method"], len(path)))
        if route is None or not (path.startswith(route.prefix) and path.endswith(route.suffix)):
            return None
        end = len(path) - len(route.suffix)
        return None if "/" in path[len(route.prefix) : end] else route


def _handler_of(error: Exception) -> Callable[[Request, Exception], Awaitable[ASGIApp]]:
    """As Starlette finds it: that of the nearest class."""
    return next(
        EXCEPTION_HANDLERS[kind] for kind in type(error).__mro__ if kind in EXCEPTION_HANDLERS
    )
