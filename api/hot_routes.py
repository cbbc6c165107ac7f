"""The busiest operations, found and answered before Starlette's layers and routing.

Starlette passes a request through three layers and up to twenty patterns, and wraps `send` in each.
Here one look into a dictionary finds the operation. What is not found here, and whatever a fast
answer does not want to decide, goes the ordinary way: no answer exists here alone.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.metrics import RequestCounter
from api.openapi import Operation
from api.problems import EXCEPTION_HANDLERS

UUID_CHARS: Final = 36

FastAnswer = Callable[[Scope, str, Send], Awaitable[int | None]]
"""Answers a request, told its path parameter, and returns the status; None: it does not want to."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """An operation with one id in its path."""

    operation: Operation
    parameter: str
    prefix: str
    suffix: str
    answer: FastAnswer | None

    @property
    def path(self) -> str:
        """What metrics call it."""
        return self.operation.path


class HotRoutes:
    """`operations` are the hot ones, `answers` fast answers by operation id."""

    def __init__(
        self,
        operations: Iterable[Operation],
        answers: Mapping[str, FastAnswer],
        counter: RequestCounter,
    ) -> None:
        self._counter = counter
        self._routes: dict[tuple[str, int], HotRoute] = {}
        for operation in operations:
            prefix, _, rest = operation.path.partition("{")
            parameter, _, suffix = rest.partition("}")
            answer = answers.get(operation.operation_id)
            route = HotRoute(operation, parameter, prefix, suffix, answer)
            key = (operation.method, len(prefix) + UUID_CHARS + len(suffix))
            if key in self._routes:
                raise ValueError(f"{operation.path} cannot be told from another hot route")
            self._routes[key] = route

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers the request; False when it must go the ordinary way."""
        route = self._find(scope)
        if route is None:
            return False
        began = time.perf_counter()
        text = scope["path"][len(route.prefix) : len(route.prefix) + UUID_CHARS]
        if route.answer is not None:
            status = await route.answer(scope, text, send)
            if status is None:
                return False
            self._counter.count(scope["method"], route.path, status, time.perf_counter() - began)
            return True
        scope["path_params"] = {route.parameter: text}
        request = Request(scope, receive)
        try:
            response = await route.operation.handler(request)
        except Exception as error:  # noqa: BLE001 - the outermost layer: a defect is a 500
            response = await _handler_of(error)(request, error)
        status = getattr(response, "status_code", HTTPStatus.OK.value)
        self._counter.count(scope["method"], route.path, status, time.perf_counter() - began)
        del request, scope["path_params"]  # a stream may stay for long
        await response(scope, receive, send)
        return True

    def _find(self, scope: Scope) -> HotRoute | None:
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
