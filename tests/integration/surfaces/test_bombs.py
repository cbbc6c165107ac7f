"""Values that one request may bring and another would trip over: refused, or harmless for good."""

from __future__ import annotations

import json
import secrets
import time
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from shared.postgres.histories import Histories
from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [40, 247, 254, 5000])
async def test_props_of_an_artifact_do_not_break_its_project(owner: Person, depth: int) -> None:
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}/artifact"
    sent = await owner.ask(
        "zylon", "POST", path, data={"props": nested(depth)}, files={"fileData": ("a.txt", b"x")}
    )
    assert sent.status_code == 400, sent.text
    listed = await owner.ask("zylon", "GET", path)
    assert listed.status_code == 200, listed.text


@pytest.mark.parametrize("props", ['{"a":' + "9" * 30 + "}", '{"a":1e999}', '{"a":1,"a":2}'])
async def test_props_are_json_of_the_strict_kind(owner: Person, props: str) -> None:
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}/artifact"
    sent = await owner.ask(
        "zylon", "POST", path, data={"props": props}, files={"fileData": ("a.txt", b"x")}
    )
    assert sent.status_code == 400, sent.text


@pytest.mark.parametrize("depth", [20, 40, 249, 254, 5000])
async def test_arguments_of_a_call_do_not_break_a_thread(owner: Person, depth: int) -> None:
    thread = await owner.made("primary", "/api/v1/chat/threads")
    path = f"{{default}}/{thread['id']}/messages"
    place = {
        "workspace_id": "default", "app_id": None, "namespace_id": "default",
        "thread_id": thread["id"],
    }  # fmt: skip
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": nested(depth)}}
    body = {**place, "role": "assistant", "content": "", "tool_calls": [call]}
    sent = await owner.ask("mm", "POST", path, json=body)
    assert sent.status_code in (201, 422), sent.text
    listed = await owner.ask("mm", "GET", path)
    assert listed.status_code == 200
    listed = await owner.ask("primary", "GET", f"/api/v1/chat/threads/{thread['id']}/messages")
    assert listed.status_code == 200


@pytest.mark.parametrize(
    "deadline",
    [
        "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z", "-1", "1e20", 1e300, -(2**62), 2**60, 253402300799, -62135596800,
        "2026-01-01T00:00:00+24:00",
    ],
)  # fmt: skip
async def test_a_deadline_at_the_end_of_time(owner: Person, deadline: Any) -> None:
    body = {"name": "P", "visibility": "Public", "deadline": deadline}
    sent = await owner.ask("zylon", "POST", f"{APP}/project", json=body)
    assert sent.status_code in (201, 400), sent.text
    listed = await owner.ask("zylon", "GET", f"{APP}/project")
    assert listed.status_code == 200


@pytest.mark.parametrize("odd", [[], {}, [[]], 0, None, True])
@pytest.mark.parametrize("place", ["type", "role", "content", "approval_request_id", "approve"])
async def test_odd_items_are_refused(owner: Person, place: str, odd: Any) -> None:
    items = [
        {"type": "message", "role": "user", "content": "x"} | {place: odd},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_x", "approve": True}
        | {place: odd},
        {"role": "user", "content": [{"type": "input_text", "text": "x"} | {place: odd}]},
        {"role": "user", "content": [{"type": odd, "text": odd}]},
    ]
    for item in items:
        for path, body in (
            ("/v1/responses", {"input": [item], "background": True}),
            ("/v1/conversations", {"items": [item]}),
        ):
            answered = await owner.ask("primary", "POST", path, json=body)
            assert answered.status_code < 500, (item, answered.text)


@pytest.mark.parametrize("field", ["conversation", "tool_choice", "tools", "prompt", "text"])
@pytest.mark.parametrize("odd", [[], {}, [[]], {"id": []}, {"id": {}}, 0, True, "x"])
async def test_odd_members_are_refused(owner: Person, field: str, odd: Any) -> None:
    body = {"input": "x", "background": True, field: odd}
    answered = await owner.ask("primary", "POST", "/v1/responses", json=body)
    assert answered.status_code < 500, answered.text


async def test_settings_of_a_run_are_as_small_as_of_any_turn(owner: Person) -> None:
    thread = await owner.made("primary", "/api/v1/chat/threads")
    large = {"script": {"text": "x" * 20_000}}
    for path, body in (
        (f"/api/v1/chat/threads/{thread['id']}/turns", {"message": "x", "settings": large}),
        ("/v1/responses", {"input": "x", "settings": large, "background": True}),
        (
            "/api/v1/agui",
            {
                "threadId": thread["id"], "runId": "r", "forwardedProps": {"settings": large},
                "messages": [{"role": "user", "content": "x"}],
            },
        ),
    ):  # fmt: skip
        answered = await owner.ask("primary", "POST", path, json=body)
        assert answered.status_code in (400, 422), (path, answered.status_code)


def filled(head: str, unit: str, tail: str) -> bytes:
    """A body of nearly 1 MiB."""
    count = (1_048_576 - len(head) - len(tail)) // (len(unit) + 1)
    return (head + ",".join([unit] * count) + tail).encode()


PLACE = '"workspace_id":"default","app_id":null,"namespace_id":"default","thread_id":"t"'
CHAT = '{"messages":[{"role":"user","content":'
MANY = {
    "blocks": ("zylon", f"{APP}/chat", CHAT + "[", "0", "]}]}"),
    "blocks to be passed over": (
        "zylon",
        f"{APP}/chat/validate",
        CHAT + "[",
        '{"type":"x"}',
        "]}]}",
    ),
    "messages": ("zylon", f"{APP}/chat", '{"messages":[', "0", "]}"),
    "tools": ("zylon", f"{APP}/chat", CHAT + '"x"}],"tools":[', "0", "]}"),
    "servers": ("zylon", f"{APP}/chat", CHAT + '"x"}],"mcp_servers":[', "0", "]}"),
    "runs": ("primary", "/api/v1/agui", '{"threadId":"a","runId":"b","messages":[', "0", "]}"),
    "context": ("primary", "/api/v1/agui", '{"threadId":"a","runId":"b","context":[', "0", "]}"),
    "items": ("primary", "/v1/responses", '{"input":[', "0", "]}"),
    "parts": ("primary", "/v1/responses", '{"input":[{"role":"user","content":[', "0", "]}]}"),
    "calls": ("mm", "{default}/t/messages", f'{{{PLACE},"tool_calls":[', "0", "]}"),
    "artifacts": ("mm", "{default}/t/messages", f'{{{PLACE},"artifacts":[', "0", "]}"),
    "tags": ("mm", "{default}", '{"tags":[', "0", "]}"),
    "agent's tools": ("kodey", "/agent", '{"name":"x","tools":[', "0", "]}"),
}


@pytest.mark.parametrize("name", MANY)
async def test_what_is_wrong_half_a_million_times_is_told_in_a_moment(
    owner: Person, name: str
) -> None:
    kind, path, *pieces = MANY[name]
    began = time.process_time()
    answered = await owner.ask(
        kind, "POST", path, content=filled(*pieces), headers={"content-type": "application/json"}
    )
    took_s = time.process_time() - began
    assert answered.status_code in (400, 422), answered.text[:300]
    assert len(answered.content) < 10_000
    assert took_s < 2, "each was told on its own"


@pytest.mark.parametrize("is_dull", [False, True], ids=["", "compressible"])
async def test_a_history_is_bounded_with_what_its_requests_brought_along(
    owner: Person, admin: Any, is_dull: bool
) -> None:
    """16 of them are in a worker's memory at once."""
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}/thread"
    thread = await owner.made("zylon", path, name="T", visibility="Private")
    asked: dict[str, Any] = {}
    for _ in range(12):
        text = "x" * 400_000 if is_dull else secrets.token_hex(200_000)
        messages = [{"role": role, "content": text} for role in ("user", "assistant")]
        pgpt = {"messages": [*messages, {"role": "user", "content": "x"}], "stream": True}
        asked = await owner.made("zylon", f"{APP}/thread/{thread['id']}/interaction", pgpt=pgpt)
    row = await admin.fetchrow(
        "select id, tenant_id, thread_id, accept_seq from turns where id = $1",
        UUID(asked["id"].removeprefix("inter_")),
    )
    app: Any = owner.app
    max_bytes = 32_000
    histories = Histories(app.state.database, max_messages=100, max_bytes=max_bytes)
    read = await histories.read(SimpleNamespace(**row))  # type: ignore[arg-type]  # all it reads
    size = sum(len(json.dumps(message["raw_data"])) for message in read)
    assert size < (4_000_000 if is_dull else 2_000_000)  # one is read, and no more
