"""What the operations do: order, pages, ids, deletes by time, clearing, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from shared.ids import new_id
from tests.integration.mechamental_surface.conftest import AddMm, Mm


async def test_pages_in_both_directions_and_cursors_bound_to_theirs(mm: Mm) -> None:
    place = mm.place()
    said = [f"m{number}" for number in range(5)]
    for text in said:
        await mm.say(place, text)
    query: dict[str, Any] = {}
    for ascending, expected in (("true", said), ("false", said[::-1])):
        seen: list[str] = []
        query = {"ascending": ascending, "limit": 2}
        while True:
            page = (await mm.get(place.path, params=query)).json()
            assert page["total"] == 5
            assert page["has_more"] is (page["next_cursor"] is not None)
            seen += [message["content"] for message in page["messages"]]
            if not page["has_more"]:
                break
            query["cursor"] = page["next_cursor"]
        assert seen == expected
    turned = {"ascending": "true", "limit": 2, "cursor": query["cursor"]}
    other = mm.place(thread="other")
    await mm.say(other)
    for refused in (
        await mm.get(place.path, params=turned),
        await mm.get(other.path, params=query),
        await mm.get(place.path, params=query | {"cursor": "nonsense"}),
    ):
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["query", "cursor"]
    assert await mm.listed(place, cursor="", limit=1) == ["m0"]
    assert len(await mm.listed(place)) == 5


@pytest.mark.parametrize(
    ("query", "type_"),
    [
        ({"limit": "0"}, "greater_than_equal"),
        ({"limit": "201"}, "less_than_equal"),
        ({"limit": "1.5"}, "int_parsing"),
        ({"ascending": "up"}, "bool_parsing"),
    ],
)
async def test_queries_are_checked(mm: Mm, query: dict[str, str], type_: str) -> None:
    await mm.say(mm.place())
    refused = await mm.get(mm.place().path, params=query)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["type"] == type_


async def test_all_that_is_given_is_kept(mm: Mm) -> None:
    place = mm.place()
    first = await mm.say(place)
    given = {
        "role": "assistant",
        "content": "",
        "source": "import",
        "execution_id": "e",
        "augmentation_id": "au",
        "endpoint_id": "en",
        "model": "m-1",
        "token_count": 7,
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "tool_call_id": "c0",
        "tool_calls": [{"id": "c 1", "anything": [1, {"deep": None}]}],
        "tool_name": "f",
        "artifacts": [{"id": "x"}],
        "metadata": {"ключ": "значение 😀"},
        "parent_message_id": first["message_id"],
    }
    told = await mm.say(place, **given)
    assert {name: told[name] for name in given} == given
    (_, again) = (await mm.get(place.path)).json()["messages"]
    assert again == told
    # What a client read it may send again: the server's own fields are ignored.
    copied = await mm.say(place, **{**told, "role": "user", "status": "x", "usage": {}})
    assert copied["message_id"] != told["message_id"]
    assert copied["created_at"] != told["created_at"]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
async def test_any_role_is_stored_and_no_model_is_run(mm: Mm, role: str, admin: Any) -> None:
    told = await mm.say(mm.place(), "four byte", role=role)
    assert (told["role"], told["token_count"]) == (role, 3)
    assert (told["tool_calls"], told["artifacts"], told["metadata"]) == ([], [], {})
    said_by = await admin.fetchval("select created_by from messages")
    assert said_by == (mm.user_id if role == "user" else None)
    assert await admin.fetchval("select count(*) from turns") == 0


@pytest.mark.parametrize(
    ("wrong", "loc", "type_"),
    [
        ({"role": "bot"}, "role", "literal_error"),
        ({"content": None}, "content", "string_type"),
        ({"content": ""}, "content", "string_too_short"),
        ({"content": "", "tool_calls": None}, "content", "string_too_short"),
        ({"content": "x" * 200_001}, "content", "string_too_long"),
        ({"token_count": True}, "token_count", "int_type"),
        ({"token_count": "7"}, "token_count", "int_type"),
        ({"prompt_tokens": -1}, "prompt_tokens", "greater_than_equal"),
        ({"tool_calls": [1]}, "tool_calls", "dict_type"),
        ({"tool_calls": {}}, "tool_calls", "list_type"),
        ({"artifacts": [{}] * 129}, "artifacts", "too_long"),
        ({"metadata": []}, "metadata", "dict_type"),
        ({"metadata": {"x": "x" * 17_000}}, "metadata", "too_long"),
        ({"source": "s" * 65}, "source", "string_too_long"),
        ({"workspace_id": "other"}, "workspace_id", "value_error"),
        ({"app_id": "other"}, "app_id", "value_error"),
        ({"app_id": None}, "app_id", "value_error"),
        ({"namespace_id": "other"}, "namespace_id", "value_error"),
        ({"thread_id": "other"}, "thread_id", "value_error"),
    ],
)
async def test_bodies_are_checked(
    mm: Mm, wrong: dict[str, Any], loc: str, type_: str, admin: Any
) -> None:
    place = mm.place()
    body = {**place.ids, "role": "user", "content": "x", **wrong}
    refused = await mm.post(place.path, json=body)
    assert refused.status_code == 422, refused.text
    (item,) = refused.json()["detail"]
    assert set(item) == {"loc", "msg", "type", "input", "ctx"}
    assert (item["loc"][:2], item["type"]) == (["body", loc], type_)
    assert await admin.fetchval("select count(*) from threads") == 0


@pytest.mark.parametrize(
    "name", ["workspace_id", "app_id", "namespace_id", "thread_id", "role", "content"]
)
@pytest.mark.parametrize("label", ["a", None])
async def test_a_field_of_the_example_is_required(mm: Mm, name: str, label: str | None) -> None:
    place = mm.place(app=label)
    body = {**place.ids, "role": "user", "content": "x"}
    del body[name]
    refused = await mm.post(place.path, json=body)
    assert refused.status_code == 422
    assert [(item["loc"], item["type"]) for item in refused.json()["detail"]] == [
        (["body", name], "missing")
    ]


async def test_a_parent_is_a_message_of_the_thread(mm: Mm, admin: Any) -> None:
    place, other = mm.place(), mm.place(thread="other")
    first = await mm.say(place)
    body = {**other.ids, "role": "user", "content": "x"}
    for parent in (first["message_id"], str(new_id()), "no uuid", ""):
        await mm.say(other)
        refused = await mm.post(other.path, json={**body, "parent_message_id": parent})
        assert refused.status_code == 404
        details = {"resource_type": "message", "resource_id": parent}
        assert refused.json()["details"] == details
    threads = await admin.fetchval("select count(*) from threads")
    never = mm.place(thread="never")
    body = {**never.ids, "role": "user", "content": "x", "parent_message_id": "x"}
    assert (await mm.post(never.path, json=body)).status_code == 404
    assert await admin.fetchval("select count(*) from threads") == threads


async def test_a_message_is_deleted_by_its_id_and_its_instant(mm: Mm) -> None:
    place = mm.place()
    forms: list[Callable[[str], str]] = [
        lambda at: at,
        lambda at: quote(at.replace("Z", "+00:00")),
        lambda at: at.replace("Z", "+00:00"),  # the + arrives as a space
        lambda at: (
            quote((datetime.fromisoformat(at) + timedelta(hours=2)).isoformat()[:26]) + "+02:00"
        ),
        lambda at: at.replace("T", "%20"),
        lambda at: at.rstrip("Z"),
    ]
    for number, form in enumerate(forms):
        made = await mm.say(place, f"m{number}")
        path = f"{place.path}/{made['message_id']}"
        at = made["created_at"]
        later = (datetime.fromisoformat(at) + timedelta(microseconds=1)).isoformat()
        assert (await mm.delete(path, params={"timestamp": later})).status_code == 404
        deleted = await mm.delete(f"{path}?timestamp={form(at)}")
        assert (deleted.status_code, deleted.content) == (200, b"null"), (number, deleted.text)
        gone = await mm.delete(f"{path}?timestamp={at}")
        assert gone.status_code == 404
        details = {"resource_type": "message", "resource_id": made["message_id"]}
        assert gone.json()["details"] == details
    assert await mm.listed(place) == []


@pytest.mark.parametrize(
    ("timestamp", "type_"),
    [(None, "missing"), ("string", "datetime_parsing"), ("", "datetime_parsing")],
)
async def test_a_delete_without_a_time_is_refused(
    mm: Mm, timestamp: str | None, type_: str
) -> None:
    made = await mm.say(mm.place())
    path = f"{mm.place().path}/{made['message_id']}"
    refused = await mm.delete(path, params={} if timestamp is None else {"timestamp": timestamp})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["type"] == type_
    assert len(await mm.listed(mm.place())) == 1


async def test_the_thread_tells_of_what_is_left(mm: Mm) -> None:
    place = mm.place()
    first = await mm.say(place, "first")
    second = await mm.say(place, "second")
    await mm.say(place, "rule", role="system")

    async def shown() -> dict[str, Any]:
        (thread,) = (await mm.chat.get("/threads")).json()["items"]
        return {name: thread[name] for name in ("lastMessageAt", "lastMessagePreview")}

    assert await shown() == {
        "lastMessageAt": second["created_at"],
        "lastMessagePreview": "second",
    }
    at = second["created_at"]
    await mm.delete(f"{place.path}/{second['message_id']}?timestamp={at}")
    assert (await shown())["lastMessagePreview"] == "first"
    assert (await shown())["lastMessageAt"] == first["created_at"]
    await mm.delete(place.path)
    assert await shown() == {"lastMessageAt": None, "lastMessagePreview": None}
    await mm.say(place, "again")
    assert await mm.listed(place) == ["again"]


async def test_two_first_messages_at_once_make_one_thread(mm: Mm, admin: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(mm.say(mm.place(), f"m{number}"))
    assert len(await mm.listed(mm.place())) == 6
    assert await admin.fetchval("select count(*) from threads") == 1


async def test_a_deleted_thread_leaves_its_name(mm: Mm, add_mm: AddMm) -> None:
    place = mm.place()
    await mm.say(place, "old")
    (thread,) = (await mm.chat.get("/threads")).json()["items"]
    assert (await mm.chat.delete(f"/threads/{thread['id']}")).status_code == 204
    assert (await mm.get(place.path)).status_code == 404
    colleague = await add_mm(mm.tenant_id)
    await colleague.say(place, "new")
    assert await mm.listed(place) == ["new"]


async def test_a_422_repeats_what_was_out_of_bounds(mm: Mm) -> None:
    refused = await mm.get(f"{mm.place().path}?limit=0")
    (item,) = refused.json()["detail"]
    assert (refused.status_code, item["input"], item["ctx"]) == (422, "0", {"ge": 1})
