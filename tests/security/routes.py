"""Every route of the application and how to make a valid request to it.

Routes come from the application itself. One that is not described here fails the build: what has
no valid request cannot be attacked either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route as StarletteRoute

from api.app import OPERATIONS
from api.openapi import EVENT_STREAM, Operation
from tests.security.wire import Headers, Request

CHAT = "/api/v1/chat"
_THREAD = f"{CHAT}/threads/{{thread_id}}"
_TURN = f"{CHAT}/turns/{{turn_id}}"
_TURN_BODY: dict[str, Any] = {"message": "x", "modelId": "scripted"}

PUBLIC = {"GET /livez", "GET /readyz", "GET /metrics", "GET /openapi.json"}
"""Asked without a credential, by operators: `SECURITY.md` says not to show them to strangers."""

VALID: dict[str, tuple[int, dict[str, Any] | None]] = {
    "GET /livez": (200, None),
    "GET /readyz": (200, None),
    "GET /metrics": (200, None),
    "GET /openapi.json": (200, None),
    f"GET {CHAT}/threads": (200, None),
    f"POST {CHAT}/threads": (201, {"title": "x"}),
    f"GET {_THREAD}": (200, None),
    f"PATCH {_THREAD}": (200, {"title": "x"}),
    f"DELETE {_THREAD}": (204, None),
    f"GET {_THREAD}/messages": (200, None),
    f"POST {_THREAD}/turns/stream": (200, _TURN_BODY),
    f"POST {_THREAD}/turns": (202, _TURN_BODY),
    f"GET {_THREAD}/turns": (200, None),
    f"GET {_THREAD}/stream": (200, None),
    f"POST {_THREAD}/turns/cancel": (204, {"partialText": "x"}),
    f"GET {CHAT}/turns": (200, None),
    f"POST {CHAT}/threads/bulk-delete": (200, {"threadIds": []}),
    f"POST {_THREAD}/feedback": (201, {"rating": "negative", "comment": "x"}),
    f"GET {CHAT}/feedback": (200, None),
    f"GET {CHAT}/feedback/export": (200, None),
    f"GET {_TURN}": (200, None),
    f"GET {_TURN}/events": (200, None),
    f"POST {_TURN}/cancel": (200, {"partialText": "x"}),
}
"""Route → status and body of a valid request, on a thread with a pending turn."""


@dataclass(frozen=True, slots=True)
class Place:
    """Ids to fill in."""

    thread_id: str
    turn_id: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path; `operation` is None for the plain ones."""

    name: str
    operation: Operation | None

    @property
    def method(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.name.partition(" ")[2]

    @property
    def is_public(self) -> bool:
        return self.name in PUBLIC

    @property
    def has_body(self) -> bool:
        return self.operation is not None and self.operation.body is not None

    @property
    def has_id(self) -> bool:
        return "{" in self.path

    @property
    def is_stream(self) -> bool:
        return self.operation is not None and EVENT_STREAM in self.operation.responses.values()

    @property
    def status(self) -> int:
        return VALID[self.name][0]

    @property
    def body(self) -> dict[str, Any] | None:
        return VALID[self.name][1]

    def takes(self, header: str) -> bool:
        headers = () if self.operation is None else self.operation.headers
        return any(known.name == header for known in headers)

    def request(self, place: Place, credential: Headers) -> Request:
        """A valid request."""
        path = self.path.format(thread_id=place.thread_id, turn_id=place.turn_id)
        request = Request(self.method.encode(), path.encode(), credential)
        if self.body is None:
            return request
        return request.with_body(orjson.dumps(self.body)).with_headers(
            (b"content-type", b"application/json")
        )


def names_of(app: Starlette) -> set[str]:
    """`METHOD path` of all that the application routes; HEAD is its GET without a body."""
    found = set()
    for route in app.routes:
        assert isinstance(route, StarletteRoute), f"{route!r} is no plain route: describe it here"
        found |= {f"{method} {route.path}" for method in (route.methods or ()) if method != "HEAD"}
    return found


_OPERATIONS = {f"{operation.method} {operation.path}": operation for operation in OPERATIONS}
ROUTES = [Route(name, _OPERATIONS.get(name)) for name in VALID]
GUARDED = [route for route in ROUTES if not route.is_public]
WITH_BODY = [route for route in ROUTES if route.has_body]
WITH_ID = [route for route in ROUTES if route.has_id]
WITH_QUERY = [route for route in ROUTES if route.operation is not None and route.operation.query]
