"""Every example of the reference, sent as it is printed; only host and organization are ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.mechamental_surface.conftest import Mm

PRINTED = {
    "workspace_id": "string",
    "app_id": "string",
    "namespace_id": "string",
    "thread_id": "string",
}
MESSAGE: dict[str, type | tuple[type, ...]] = {
    "message_id": str,
    "thread_id": str,
    "workspace_id": str,
    "app_id": (str, type(None)),
    "namespace_id": str,
    "role": str,
    "content": str,
    "source": str,
    "execution_id": (str, type(None)),
    "augmentation_id": (str, type(None)),
    "endpoint_id": (str, type(None)),
    "model": (str, type(None)),
    "token_count": (int, type(None)),
    "prompt_tokens": (int, type(None)),
    "completion_tokens": (int, type(None)),
    "tool_call_id": (str, type(None)),
    "tool_calls": list,
    "tool_name": (str, type(None)),
    "artifacts": list,
    "metadata": dict,
    "parent_message_id": (str, type(None)),
    "created_at": str,
}
LIST = {"total": int, "has_more": bool, "next_cursor": (str, type(None)), "messages": list}
CONTEXT = {"messages": list, "total_tokens": int, "message_count": int, "truncated": bool}


def has_shape(value: dict[str, Any], shape: dict[str, Any]) -> None:
    assert list(value) == list(shape), "all keys, always, in the printed order"
    for name, types in shape.items():
        assert isinstance(value[name], types), (name, value[name])


@pytest.fixture(params=["id", "short name"])
async def org(request: pytest.FixtureRequest, mm: Mm, admin: Any) -> str:
    if request.param == "id":
        return str(mm.tenant_id)
    slug = await admin.fetchval("select slug from tenants where id = $1", mm.tenant_id)
    return str(slug)


async def test_the_examples(mm: Mm, org: str) -> None:
    base = f"/v1/orgs/{org}/workspaces/string"
    with_app = f"{base}/apps/string/namespaces/string/threads/string/messages"
    without_app = f"{base}/namespaces/string/threads/string/messages"
    body = PRINTED | {"role": "system", "content": "string"}
    json_type = {"content-type": "application/json"}

    created = await mm.post(with_app, json=body, headers=json_type)
    assert created.status_code == 201
    has_shape(created.json(), MESSAGE)
    assert created.json().items() >= body.items()
    assert created.json()["source"] == "user_input"
    again = await mm.post(without_app, json=body, headers=json_type)
    assert again.status_code == 201
    has_shape(again.json(), MESSAGE)

    for path in (with_app, without_app):
        listed = await mm.get(path)
        assert listed.status_code == 200
        has_shape(listed.json(), LIST)
        assert listed.json()["total"] == 2
        assert listed.json()["messages"] == [created.json(), again.json()]

    context = await mm.post(f"{with_app}/context", json=PRINTED, headers=json_type)
    assert context.status_code == 200
    has_shape(context.json(), CONTEXT)
    assert context.json()["messages"] == [{"role": "system", "content": "string"}] * 2

    id_ = created.json()["message_id"]
    printed = await mm.delete(f"{with_app}/{id_}?timestamp=string")
    assert printed.status_code == 422
    assert printed.json()["detail"][0]["loc"] == ["query", "timestamp"]
    at = created.json()["created_at"]
    deleted = await mm.delete(f"{with_app}/{id_}?timestamp={at}")
    assert (deleted.status_code, deleted.content) == (200, b"null")
    cleared = await mm.delete(with_app)
    assert (cleared.status_code, cleared.content) == (200, b"null")
    assert (await mm.get(with_app)).json()["total"] == 0


async def test_every_key_has_a_value_of_the_printed_type(mm: Mm) -> None:
    """As the reference prints it: nothing is null where there is something to tell."""
    path = f"/v1/orgs/{mm.tenant_id}/workspaces/string/apps/string/namespaces/string/threads/string"
    asked = await mm.post(
        f"{path}/messages",
        json=PRINTED | {"role": "assistant", "content": "", "tool_calls": [{"id": "string"}]},
    )
    full = {
        "role": "tool",
        "content": "string",
        "source": "user_input",
        "execution_id": "string",
        "augmentation_id": "string",
        "endpoint_id": "string",
        "model": "string",
        "token_count": 1,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "tool_call_id": "string",
        "tool_calls": [{}],
        "tool_name": "string",
        "artifacts": [{}],
        "metadata": {"string": 0},
        "parent_message_id": asked.json()["message_id"],
    }
    made = await mm.post(f"{path}/messages", json=PRINTED | full)
    assert made.status_code == 201
    assert made.json().items() >= (PRINTED | full).items()
    printed = {
        name: types[0] if isinstance(types, tuple) else types for name, types in MESSAGE.items()
    }
    has_shape(made.json(), printed)
    page = await mm.get(f"{path}/messages", params={"limit": 1})
    has_shape(page.json(), LIST | {"next_cursor": str})
    assert (page.json()["total"], page.json()["has_more"]) == (2, True)
    rest = await mm.get(f"{path}/messages", params={"cursor": page.json()["next_cursor"]})
    assert rest.json()["messages"] == [made.json()]


async def test_a_wrong_value_is_told_with_five_keys(mm: Mm) -> None:
    path = f"/v1/orgs/{mm.tenant_id}/workspaces/w/namespaces/n/threads/t/messages"
    refused = await mm.get(path, params={"limit": "0"})
    assert refused.status_code == 422
    assert refused.json() == {
        "detail": [
            {
                "loc": ["query", "limit"],
                "msg": "Input should be greater than or equal to 1",
                "type": "greater_than_equal",
                "input": "0",
                "ctx": {"ge": 1},
            }
        ]
    }
