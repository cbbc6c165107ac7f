"""Every route of the application and how to make a valid request to it.

Routes come from the application itself. One that is not described here fails the build: what has
no valid request cannot be attacked either.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import orjson
from starlette.applications import Starlette
from starlette.routing import Route as StarletteRoute

from api.app import OPERATIONS
from api.openapi import EVENT_STREAM, Operation
from shared.ids import new_id
from tests.security.wire import Headers, Request

CHAT = "/api/v1/chat"
_THREAD = f"{CHAT}/threads/{{thread_id}}"
_TURN = f"{CHAT}/turns/{{turn_id}}"
_ARTIFACTS = "/api/v1/artifacts"
_UPLOAD = (
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n--x--\r\n'
)
SPECS = "/api/v1/agents/specs"
_SPEC = f"{SPECS}/{{spec_id}}"
AUTOMATIONS = "/api/v1/automations"
_AUTOMATION = f"{AUTOMATIONS}/{{automation_id}}"
_RUNS = "/api/v1/automation-runs"
_RUN = f"{_RUNS}/{{run_id}}"
AUTOMATION: dict[str, Any] = {
    "name": "x",
    "config": {"steps": [{"id": "a", "kind": "calculator", "input": {"expression": "1"}}]},
}
_MARKDOWN = "---\nname: A\nslug: s-{slug}\nmode: primary\ntools: []\n---\nBe kind."
_TURN_BODY: dict[str, Any] = {"message": "x", "modelId": "scripted"}

FORM = (b"content-type", b"multipart/form-data; boundary=x")
PUBLIC = {"GET /livez", "GET /readyz", "GET /metrics", "GET /openapi.json"}
"""Asked without a credential, by operators: `SECURITY.md` says not to show them to strangers."""

LOGIN = "POST /api/v1/auth/login"
ASKED_BY_ANYBODY = {LOGIN}
"""Operations that make somebody known, and so cannot ask who it is."""
BY_SESSION_ALONE = {"POST /api/v1/auth/logout"}
BY_WHAT_LASTS = {"POST /api/v1/access-tokens"}
"""Answered 403 to credentials of other kinds, or to personal tokens and JWTs."""
PASSWORD = "the password of them all"
_TOKENS = "/api/v1/access-tokens"
_ME = "/api/v1/users/me"

VALID: dict[str, tuple[int, dict[str, Any] | bytes | None]] = {
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
    f"POST {CHAT}/threads/bulk-delete": (
        200,
        {"threadIds": [str(UUID(int=1))]},
    ),  # not `all` as well
    f"POST {_THREAD}/feedback": (201, {"rating": "negative", "comment": "x"}),
    f"GET {CHAT}/feedback": (200, None),
    f"GET {CHAT}/feedback/export": (200, None),
    f"GET {_TURN}": (200, None),
    f"GET {_TURN}/events": (200, None),
    f"POST {_TURN}/cancel": (200, {"partialText": "x"}),
    LOGIN: (204, {"email": "u0@example.org", "password": PASSWORD}),
    "POST /api/v1/auth/logout": (204, None),
    "GET /api/v1/auth/me": (200, None),
    f"GET {_ME}": (200, None),
    f"PATCH {_ME}": (200, {"name": "x"}),
    f"PATCH {_ME}/preferences": (200, {"timezone": "UTC"}),
    f"POST {_TOKENS}": (201, {"name": "x"}),
    f"GET {_TOKENS}": (200, None),
    f"DELETE {_TOKENS}/{{token_id}}": (204, None),
    f"GET {_THREAD}/attachments": (200, None),
    f"POST {_THREAD}/attachments": (200, {"messageId": None}),
    f"GET {CHAT}/attachments/{{attachment_id}}": (200, None),
    f"DELETE {CHAT}/attachments/{{attachment_id}}": (204, None),
    f"GET {_ARTIFACTS}": (200, None),
    f"POST {_ARTIFACTS}": (201, {"kind": "json", "content": {"a": 1}, "title": "x"}),
    f"POST {_ARTIFACTS}/upload": (201, _UPLOAD),
    f"GET {_ARTIFACTS}/{{artifact_id}}": (200, None),
    f"GET {_ARTIFACTS}/{{artifact_id}}/content": (200, None),
    f"DELETE {_ARTIFACTS}/{{artifact_id}}": (204, None),
    f"GET {SPECS}": (200, None),
    f"POST {SPECS}": (201, {"markdown": _MARKDOWN}),
    f"GET {_SPEC}": (200, None),
    f"PATCH {_SPEC}": (200, {"markdown": _MARKDOWN}),
    f"DELETE {_SPEC}": (204, None),
    # Of a thread with an active turn: the conflict is told to its owner only.
    f"POST {_THREAD}/crystallize": (409, {"name": "x"}),
    f"GET {AUTOMATIONS}": (200, None),
    f"POST {AUTOMATIONS}": (201, AUTOMATION),
    f"GET {_AUTOMATION}": (200, None),
    f"PATCH {_AUTOMATION}": (200, AUTOMATION | {"status": "active"}),
    f"DELETE {_AUTOMATION}": (204, None),
    f"POST {_AUTOMATION}/runs": (202, {"versionNumber": 1}),
    f"GET {_RUNS}": (200, None),
    f"GET {_RUN}": (200, None),
    # Of a run whose gate is not open yet.
    f"POST {_RUN}/actions": (409, {"decisions": [{"stepId": "g", "approved": True}]}),
    f"POST {_RUN}/cancel": (200, None),
    "POST /api/v1/agui": (
        200,
        {
            "threadId": "{thread_id}",
            "runId": "run",
            "messages": [{"id": "m", "role": "user", "content": "x"}],
            "forwardedProps": {"modelId": "scripted"},
        },
    ),
    # Of a turn that waits for nobody's approval: the conflict is told to its owner only.
    f"POST {_TURN}/actions": (409, {"decisions": [{"toolCallId": "x", "approved": True}]}),
}
"""Route → status and body of a valid request, on a thread with a pending turn and an attachment, an
automation and a run of it that waits.

A body of bytes is a form."""
QUERIES = {f"POST {_THREAD}/attachments": "artifact_id={artifact_id}"}
"""What a valid request must ask for in its query."""


@dataclass(frozen=True, slots=True)
class Place:
    """Ids to fill in."""

    thread_id: str
    turn_id: str
    artifact_id: str = field(default_factory=lambda: str(new_id()))
    attachment_id: str = field(default_factory=lambda: str(new_id()))
    token_id: str = field(default_factory=lambda: str(new_id()))
    spec_id: str = field(default_factory=lambda: str(new_id()))
    automation_id: str = field(default_factory=lambda: str(new_id()))
    run_id: str = field(default_factory=lambda: str(new_id()))


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
        return self.name in PUBLIC | ASKED_BY_ANYBODY

    @property
    def has_body(self) -> bool:
        return self.operation is not None and self.operation.body is not None

    @property
    def has_form(self) -> bool:
        return self.operation is not None and self.operation.form is not None

    @property
    def has_id(self) -> bool:
        return "{" in self.path

    @property
    def is_shared(self) -> bool:
        """Whether all users of a tenant see each other's things there."""
        return self.path.startswith((SPECS, _ARTIFACTS, AUTOMATIONS, _RUNS))

    @property
    def is_stream(self) -> bool:
        return self.operation is not None and EVENT_STREAM in self.operation.responses.values()

    @property
    def status(self) -> int:
        return VALID[self.name][0]

    def status_for(self, kind: str) -> int:
        """Of a valid request under a kind of credential: `cookie`, `pat`, `jwt` or another."""
        is_refused = (self.name in BY_SESSION_ALONE and kind != "cookie") or (
            self.name in BY_WHAT_LASTS and kind in ("pat", "jwt")
        )
        return 403 if is_refused else self.status

    @property
    def body(self) -> dict[str, Any] | bytes | None:
        return VALID[self.name][1]

    def takes(self, header: str) -> bool:
        headers = () if self.operation is None else self.operation.headers
        return any(known.name == header for known in headers)

    def request(self, place: Place, credential: Headers) -> Request:
        """A valid request."""
        path = self.path.format(**asdict(place))
        request = Request(self.method.encode(), path.encode(), credential)
        if self.name in QUERIES:
            request = request.with_query(QUERIES[self.name].format(**asdict(place)).encode())
        if self.body is None:
            return request
        if isinstance(self.body, bytes):
            return request.with_body(self.body).with_headers(FORM)
        body = orjson.dumps(self.body).replace(b"{thread_id}", place.thread_id.encode())
        body = body.replace(b"{slug}", new_id().hex.encode())
        return request.with_body(body).with_headers((b"content-type", b"application/json"))


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
WITH_FORM = [route for route in ROUTES if route.has_form]
WITH_ID = [route for route in ROUTES if route.has_id]
WITH_QUERY = [route for route in ROUTES if route.operation is not None and route.operation.query]
