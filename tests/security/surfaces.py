"""Every operation of every surface, how to make a valid request to it, and whose key opens it.

What the surfaces serve comes from the application itself (`api.app.SURFACES`). An operation without
a row here fails the build, and so does a row without an operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import unquote

import orjson

from api.app import OPERATIONS, SURFACES
from api.openapi import EVENT_STREAM, Operation
from shared.ids import new_id
from shared.turn.model import CredentialKind
from tests.security.credentials import Keys, api_key, bearer
from tests.security.dialects import DIALECTS, Require
from tests.security.routes import ASKED_BY_ANYBODY, FORM, QUERIES, VALID
from tests.security.wire import Answer, Headers, Request

Ids = dict[str, str]
"""What the placeholders of paths, queries and bodies are replaced by."""
JSON: Final = (b"content-type", b"application/json")
PRIMARY: Final = "primary"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Row:
    """A valid request of an operation, and what makes it a wrong one."""

    status: int = 200
    body: dict[str, Any] | bytes | None = None
    """Bytes are a form."""
    query: str = ""
    wrong: Mapping[str, Any] = field(default_factory=dict)
    """Members that no such body may have."""
    also: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Other requests that name somebody's things: query and members of the body."""
    absent: tuple[int, ...] = (404,)
    """What is answered where a name in it leads to nothing: some make it, or find nothing there."""


# -- the rows

_IDS: Final = {
    "workspace_id": "{workspace_id}",
    "app_id": "{app_id}",
    "namespace_id": "{namespace_id}",
    "thread_id": "{thread_id}",
}
_WORKSPACE: Final = "/v1/orgs/{org_id}/workspaces/{workspace_id}"
_SCOPE: Final = f"{_WORKSPACE}/apps/{{app_id}}/namespaces/{{namespace_id}}"
_SCOPE_WITHOUT_APP: Final = f"{_WORKSPACE}/namespaces/{{namespace_id}}"
_MM_MESSAGES: Final = f"{_SCOPE}/threads/{{thread_id}}/messages"
_MM_MESSAGES_WITHOUT_APP: Final = f"{_SCOPE_WITHOUT_APP}/threads/{{thread_id}}/messages"
_MM_MESSAGE: Final = {**_IDS, "role": "user", "content": "x"}
_NO_ROLE: Final = {"role": "robot"}
_MM_THREAD: Final = Row(201, {"name": "x"}, wrong={"tags": 1}, absent=(201, 404))
_MECHAMENTAL: Final = {
    f"GET {_MM_MESSAGES}": Row(),
    f"POST {_MM_MESSAGES}": Row(
        201, {**_MM_MESSAGE, "parent_message_id": "{message_id}"}, wrong=_NO_ROLE
    ),
    f"DELETE {_MM_MESSAGES}": Row(),
    f"POST {_MM_MESSAGES}/context": Row(200, _IDS, wrong={"max_tokens": 0}),
    f"DELETE {_MM_MESSAGES}/{{message_id}}": Row(query="timestamp={timestamp}"),
    f"GET {_MM_MESSAGES_WITHOUT_APP}": Row(),
    # A thread of a name comes to be with its first message.
    f"POST {_MM_MESSAGES_WITHOUT_APP}": Row(
        201, _MM_MESSAGE, wrong=_NO_ROLE, absent=(201, 404, 409)
    ),
    f"GET {_SCOPE}/threads": Row(absent=(200, 404)),
    f"POST {_SCOPE}/threads": _MM_THREAD,
    f"GET {_SCOPE_WITHOUT_APP}/threads": Row(absent=(200, 404)),
    f"POST {_SCOPE_WITHOUT_APP}/threads": _MM_THREAD,
}

_CHAT: Final = "/chat/{chat_id}"
_AGENT: Final = "/agent/{agent_id}"
_KODEY: Final = {
    "POST /chat": Row(
        200, {"agentId": "{agent_id}", "userId": "u", "metadata": {}}, wrong={"agentId": 1}
    ),
    "GET /chat": Row(query="userId=u"),
    f"GET {_CHAT}": Row(),
    f"DELETE {_CHAT}": Row(204),
    # No worker runs here: the agent is still answering when the time to wait is over.
    f"POST {_CHAT}/message": Row(504, {"content": "x", "role": "user"}, wrong=_NO_ROLE),
    f"GET {_CHAT}/message": Row(),
    "POST /agent": Row(200, {"name": "x"}, wrong={"temperature": 3}),
    "GET /agent": Row(),
    f"GET {_AGENT}": Row(),
    f"PUT {_AGENT}": Row(200, {"description": "y"}, wrong={"name": None}),
    f"DELETE {_AGENT}": Row(204),
    f"PUT {_AGENT}/rollback": Row(),
}

_APP: Final = "/api/v1/app"
_PROJECT: Final = f"{_APP}/project/{{project_id}}"
_ZYLON_THREAD: Final = f"{_APP}/thread/{{thread_id}}"
_INTERACTION: Final = f"{_APP}/interaction/{{interaction_id}}"
_SAID: Final = {"messages": [{"role": "user", "content": "x"}], "stream": True}
_NOT_VISIBLE: Final = {"visibility": "public"}
_DOCUMENT: Final = (
    b'--x\r\ncontent-disposition: form-data; name="fileData"; filename="a.bin"\r\n\r\n'
    b"\x00\x01\xfe\xff\r\n--x--\r\n"
)
"""Without a text, so that it can be used before a worker has looked at it."""
_ZYLON: Final = {
    f"POST {_APP}/project": Row(201, {"name": "x", "visibility": "Private"}, wrong=_NOT_VISIBLE),
    f"GET {_APP}/project": Row(),
    f"GET {_PROJECT}": Row(),
    f"GET {_APP}/me": Row(),
    f"POST {_PROJECT}/thread": Row(201, {"name": "x", "visibility": "Private"}, wrong=_NOT_VISIBLE),
    f"GET {_PROJECT}/thread": Row(query="include=User"),
    f"GET {_ZYLON_THREAD}": Row(),
    f"PUT {_ZYLON_THREAD}": Row(200, {"name": "x"}, wrong=_NOT_VISIBLE),
    f"DELETE {_ZYLON_THREAD}": Row(204),
    f"POST {_ZYLON_THREAD}/interaction": Row(
        201,
        {"pgpt": _SAID, "thread_id": "{thread_id}", "artifact_ids": ["{artifact_id}"]},
        wrong={"agent": "nobody"},
    ),
    f"GET {_ZYLON_THREAD}/interaction": Row(),
    f"GET {_INTERACTION}": Row(),
    f"DELETE {_INTERACTION}": Row(),
    f"POST {_INTERACTION}/cancel": Row(204),
    f"GET {_INTERACTION}/stream": Row(),
    f"POST {_APP}/chat": Row(200, _SAID, wrong={"messages": []}),
    f"POST {_APP}/chat/validate": Row(200, _SAID, wrong={"messages": []}),
    f"POST {_PROJECT}/artifact": Row(201, _DOCUMENT),
    f"GET {_PROJECT}/artifact": Row(),
    f"GET {_APP}/artifact/{{artifact_id}}": Row(),
}

_RESPONSE: Final = "/v1/responses/{response_id}"
_CONVERSATION: Final = "/v1/conversations/{conversation_id}"
_ASKED: Final = {"input": "x", "model": "scripted", "background": True}
_RESPONSES: Final = {
    "POST /v1/responses": Row(
        200,
        {**_ASKED, "conversation": "{conversation_id}"},
        wrong={"temperature": 3},
        also=(("", {"conversation": None, "previous_response_id": "{response_id}"}),),
        absent=(404, 400),
    ),
    f"GET {_RESPONSE}": Row(also=(("stream=true", {}), ("stream=true&starting_after=1", {}))),
    f"DELETE {_RESPONSE}": Row(),
    f"POST {_RESPONSE}/cancel": Row(),
    f"GET {_RESPONSE}/input_items": Row(also=(("after={item_id}", {}),)),
    "POST /v1/conversations": Row(200, {"metadata": {"a": "b"}}, wrong={"metadata": {"a": 1}}),
    f"GET {_CONVERSATION}": Row(),
    f"POST {_CONVERSATION}": Row(200, {"metadata": {"a": "c"}}, wrong={"metadata": {"a": 1}}),
    f"DELETE {_CONVERSATION}": Row(),
    f"GET {_CONVERSATION}/items": Row(also=(("after={item_id}", {}),)),
}

# -- the primary surface: `VALID`, and where else somebody's things are named

_ON_PRIMARY: Final = "/api/v1/chat"
_ON_THREAD: Final = f"{_ON_PRIMARY}/threads/{{thread_id}}"
_Also = tuple[tuple[str, Mapping[str, Any]], ...]
_FEEDBACK: Final[_Also] = tuple(
    (f"{name}={value}", {})
    for name, value in (
        ("threadId", "{thread_id}"), ("turnId", "{turn_id}"), ("messageId", "{message_id}")
    )
)  # fmt: skip
_ALSO: Final[Mapping[str, _Also]] = {
    f"POST {_ON_PRIMARY}/threads": (("", {"agentSpecId": "{spec_id}"}),),
    f"PATCH {_ON_THREAD}": (("", {"agentSpecId": "{spec_id}"}),),
    f"POST {_ON_PRIMARY}/threads/bulk-delete": (("", {"threadIds": ["{thread_id}"]}),),
    f"POST {_ON_THREAD}/turns": (
        ("", {"trigger": "regenerate-message", "message": None, "messageId": "{message_id}"}),
    ),
    f"POST {_ON_THREAD}/attachments": (
        ("artifact_id={artifact_id}", {"messageId": "{message_id}"}),
    ),
    f"POST {_ON_THREAD}/feedback": (
        ("", {"turnId": "{turn_id}"}), ("", {"messageId": "{message_id}"}),
    ),
    f"GET {_ON_PRIMARY}/feedback": _FEEDBACK,
    f"GET {_ON_PRIMARY}/feedback/export": _FEEDBACK,
    f"GET {_ON_PRIMARY}/turns": (("concurrencyKey=thread:{thread_id}", {}),),
    "GET /api/v1/automation-runs": (("automationId={automation_id}", {}),),
    "GET /api/v1/artifacts": (("action_run_id={run_id}", {}),),
}  # fmt: skip
_NAMES_NOTHING: Final = (
    f"POST {_ON_PRIMARY}/threads/bulk-delete", f"GET {_ON_PRIMARY}/feedback",
    f"GET {_ON_PRIMARY}/feedback/export", f"GET {_ON_PRIMARY}/turns",
    "GET /api/v1/automation-runs", "GET /api/v1/artifacts", "POST /api/v1/agui",
)  # fmt: skip
"""Where the id of nothing is no error: nothing is deleted, found, or a name becomes one's own."""
_WRONG: Final[Mapping[str, Mapping[str, Any]]] = {
    f"POST {_ON_PRIMARY}/threads": {"title": 1},
    f"PATCH {_ON_THREAD}": {"title": 1},
    f"POST {_ON_THREAD}/turns/stream": {"message": 1},
    f"POST {_ON_THREAD}/turns": {"message": 1},
    f"POST {_ON_THREAD}/turns/cancel": {"partialText": 1},
    f"POST {_ON_PRIMARY}/threads/bulk-delete": {"threadIds": ["x"]},
    f"POST {_ON_THREAD}/feedback": {"rating": "good"},
    f"POST {_ON_PRIMARY}/turns/{{turn_id}}/cancel": {"partialText": 1},
    "POST /api/v1/auth/login": {"email": 1},
    "PATCH /api/v1/users/me": {"name": 1},
    "PATCH /api/v1/users/me/preferences": {"timezone": "Mars"},
    "POST /api/v1/access-tokens": {"name": ""},
    f"POST {_ON_THREAD}/attachments": {"messageId": "x"},
    "POST /api/v1/artifacts": {"kind": "picture"},
    "POST /api/v1/agents/specs": {"markdown": "x"},
    "PATCH /api/v1/agents/specs/{spec_id}": {"markdown": "x"},
    f"POST {_ON_THREAD}/crystallize": {"name": 1},
    "POST /api/v1/automations": {"triggerType": "webhook"},
    "PATCH /api/v1/automations/{automation_id}": {"status": "x"},
    "POST /api/v1/automations/{automation_id}/runs": {"versionNumber": "1"},
    "POST /api/v1/automation-runs/{run_id}/actions": {"decisions": [{}]},
    "POST /api/v1/agui": {"messages": []},
    f"POST {_ON_PRIMARY}/turns/{{turn_id}}/actions": {"decisions": [{}]},
}
_PRIMARY: Final = {
    name: Row(
        status, body, QUERIES.get(name, ""), _WRONG.get(name, {}), _ALSO.get(name, ()),
        (200, 404) if name in _NAMES_NOTHING else (404,),
    )
    for name, (status, body) in VALID.items()
    if name.split(" ")[1].startswith("/api/")
}  # fmt: skip

TABLES: Final[Mapping[str, Mapping[str, Row]]] = {
    PRIMARY: _PRIMARY,
    "mechamental": _MECHAMENTAL,
    "kodey": _KODEY,
    "zylon": _ZYLON,
    "responses": _RESPONSES,
}


PREFLIGHTS: Final = {
    "OPTIONS /chat", f"OPTIONS {_CHAT}", f"OPTIONS {_CHAT}/message", "OPTIONS /chat/{rest:path}",
}  # fmt: skip
"""What browsers ask of another origin, without a key; routes beside the operations."""

# -- surfaces and operations


@dataclass(frozen=True, slots=True)
class Front:
    """A surface as somebody outside sees it."""

    name: str
    prefixes: tuple[str, ...]
    operations: tuple[Operation, ...]
    kind: CredentialKind
    """Of the key that its requests here bear."""
    takes: frozenset[CredentialKind]
    """Kinds of keys that are good here, of those there are keys of."""
    carry: Callable[[str], Headers] = bearer
    shared: frozenset[str] = frozenset()
    """Names of things that all of a tenant may use."""
    malformed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What a parameter of the path answers to what no id can be, where that is not a 404."""

    @property
    def invalid(self) -> int:
        """The status of a request with wrong values."""
        return int(self.operations[0].manner.invalid)

    @property
    def require(self) -> Require:
        """Checks errors against the dialect."""
        return DIALECTS[self.name]

    def credential(self, keys: Keys) -> Headers:
        """Of who may ask."""
        return self.carry(keys.of[self.kind])

    @property
    def asked(self) -> list[Asked]:
        """The operations with their requests."""
        rows = TABLES[self.name]
        named = {f"{operation.method} {operation.path}": operation for operation in self.operations}
        return [Asked(self, named[name], row) for name, row in rows.items()]


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation and its valid request."""

    front: Front
    operation: Operation
    row: Row

    @property
    def name(self) -> str:
        return f"{self.operation.method} {self.operation.path}"

    @property
    def is_public(self) -> bool:
        return self.name in ASKED_BY_ANYBODY

    @property
    def has_body(self) -> bool:
        return self.operation.body is not None

    @property
    def has_form(self) -> bool:
        return self.operation.form is not None

    @property
    def parameters(self) -> list[str]:
        """Names of what the path names."""
        return self.operation.path_parameters

    @property
    def query_fields(self) -> list[str]:
        model = self.operation.query
        fields = {} if model is None else model.model_fields
        return [known.alias or name for name, known in fields.items()]

    @property
    def is_stream(self) -> bool:
        return EVENT_STREAM in self.operation.responses.values()

    def rows(self) -> list[Row]:
        """The valid request, and the others that name things."""
        found = [self.row]
        for query, members in self.row.also:
            body = self.row.body
            if members:
                body = {**(body if isinstance(body, dict) else {}), **members}
            found.append(replace(self.row, query=query or self.row.query, body=body))
        return found

    def names(self, row: Row) -> list[str]:
        """What a request names, in the order of the path, the query and the body."""
        body = "" if isinstance(row.body, bytes) else orjson.dumps(row.body).decode()
        text = f"{self.operation.path} {row.query} {body}"
        return [name for name in dict.fromkeys(_PLACEHOLDER.findall(text)) if name in ID_NAMES]

    def request(self, ids: Ids, credential: Headers, row: Row | None = None) -> Request:
        """A valid request."""
        row = row or self.row
        path = _fill(self.operation.path, ids)
        request = Request(self.operation.method.encode(), path.encode(), credential)
        if row.query:
            request = request.with_query(_fill(row.query, ids).encode())
        if row.body is None:
            return request
        if isinstance(row.body, bytes):
            return request.with_body(row.body).with_headers(FORM)
        plain = {name: orjson.dumps(unquote(value)).decode()[1:-1] for name, value in ids.items()}
        body = _fill(orjson.dumps(row.body).decode(), plain)
        return request.with_body(body.encode()).with_headers(JSON)


def _fill(text: str, ids: Ids) -> str:
    ids = {"slug": new_id().hex, **ids}
    return _PLACEHOLDER.sub(lambda found: ids.get(found[1], found[0]), text)


_TOO_LONG_OR_NUL: Final = {"%00": 422, "x" * 256: 422}
_IS_UUID: Final = dict.fromkeys(("nonsense", "%00", "x" * 256, "%F0%9F%98%80"), 422)
MALFORMED: Final = ("nonsense", "%00", "x" * 256, "%F0%9F%98%80")
"""What no id can be; but names may."""
_CHAT_KINDS: Final = frozenset({CredentialKind.API_KEY, CredentialKind.PAT})
_OWN: Final = {
    "mechamental": Front(
        "mechamental", (), (), CredentialKind.MECHAMENTAL, frozenset({CredentialKind.MECHAMENTAL}),
        shared=frozenset({"org_id", "workspace_id", "app_id", "namespace_id"}),
        malformed=dict.fromkeys(_IDS, _TOO_LONG_OR_NUL),
    ),
    "kodey": Front(
        "kodey", (), (), CredentialKind.KODEY_SECRET,
        frozenset({CredentialKind.KODEY_SECRET, CredentialKind.KODEY_PUBLISHABLE}),
        carry=api_key, shared=frozenset({"agent_id"}),
    ),
    "zylon": Front("zylon", (), (), CredentialKind.ZYLON, frozenset({CredentialKind.ZYLON})),
    "responses": Front("responses", (), (), CredentialKind.API_KEY, _CHAT_KINDS),
}  # fmt: skip
"""What is known of each beyond what it says of itself."""


def _primary() -> Front:
    names = {name for operation in OPERATIONS for name in operation.path_parameters}
    return Front(
        PRIMARY, ("/api/v1",), OPERATIONS, CredentialKind.API_KEY, _CHAT_KINDS,
        shared=frozenset({"artifact_id", "spec_id", "automation_id", "run_id"}),
        malformed=dict.fromkeys(names, _IS_UUID),
    )  # fmt: skip


FRONTS: Final = [
    _primary(),
    *(
        replace(_OWN[surface.name], prefixes=surface.prefixes, operations=surface.operations)
        for surface in SURFACES
    ),
]
BESIDE: Final = [front for front in FRONTS if front.name != PRIMARY]
ASKED: Final = [asked for front in FRONTS for asked in front.asked]

# -- ids

ID_NAMES: Final = frozenset({"item_id", *(name for asked in ASKED for name in asked.parameters)})
_PREFIX_OF: Final = {
    "zylon": {
        "project_id": "proj_",
        "thread_id": "thread_",
        "interaction_id": "inter_",
        "artifact_id": "artifact_",
    },
    "responses": {"response_id": "resp_", "conversation_id": "conv_", "item_id": "msg_"},
}


def unknown(front: Front, name: str) -> str:
    """An id that nothing has, written as the surface writes it."""
    prefix = _PREFIX_OF.get(front.name, {}).get(name)
    return str(new_id()) if prefix is None else prefix + new_id().hex


def without_time(front: Front, answer: Answer) -> tuple[object, ...]:
    """All that an answer tells but when it was given."""
    status, headers, body = answer.told()
    headers = tuple(pair for pair in headers if not pair[0].startswith("x-ratelimit-"))
    if front.name == "mechamental" and body.startswith(b"{") and status >= 400:
        told = answer.json
        told.pop("timestamp", None)
        body = str(told)
    return status, headers, body
