"""Named threads: create and list."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.mechamental_surface.conftest import AddMm, Mm

KEYS = [
    "thread_id", "workspace_id", "app_id", "namespace_id", "name", "source_ids", "memory_ids",
    "augmentation_ids", "tags", "summary", "status", "created_at", "updated_at",
]  # fmt: skip


async def create(mm: Mm, *, app: str | None = "a", **body: Any) -> dict[str, Any]:
    answered = await mm.post(f"{mm.place(app=app).namespace_path}/threads", json=body)
    assert answered.status_code == 201, answered.text
    thread: dict[str, Any] = answered.json()
    return thread


async def test_a_thread_before_its_first_message(mm: Mm) -> None:
    given: dict[str, Any] = {
        "thread_id": "t",
        "name": "Support",
        "source_ids": ["s"],
        "memory_ids": ["m"],
        "augmentation_ids": ["x"],
        "tags": ["a", "b"],
        "summary": "short",
    }
    made = await create(mm, **given)
    assert set(made) == set(KEYS)
    assert made.items() >= {**mm.place().ids, **given, "status": "active"}.items()
    assert await mm.listed(mm.place()) == []
    await mm.say(mm.place())
    page = (await mm.get(f"{mm.place().namespace_path}/threads")).json()
    assert (page["total"], page["has_more"], page["next_cursor"]) == (1, False, None)
    (listed,) = page["threads"]
    assert listed["updated_at"] > made["updated_at"]
    assert {**listed, "updated_at": made["updated_at"]} == made
    (shown,) = (await mm.chat.get("/threads")).json()["items"]
    assert shown["title"] == "Support"


async def test_null_is_the_id_of_the_path(mm: Mm) -> None:
    place = mm.place(thread="named")
    made = await create(mm, **{**dict.fromkeys(place.ids), "thread_id": "named"})
    assert made.items() >= place.ids.items()
    assert (await create(mm, **dict.fromkeys(place.ids)))["app_id"] == "a"


async def test_a_name_is_made_where_none_is_given(mm: Mm) -> None:
    answered = await mm.post(f"{mm.place().namespace_path}/threads")
    assert answered.status_code == 201
    made = answered.json()
    assert made["name"] == made["thread_id"]
    await mm.say(mm.place(thread=made["thread_id"]))


@pytest.mark.parametrize("label", ["a", "b", None])
async def test_a_name_is_taken_once(mm: Mm, label: str | None) -> None:
    await mm.say(mm.place())
    path = f"{mm.place(app=label).namespace_path}/threads"
    refused = await mm.post(path, json={"thread_id": "t"})
    assert refused.status_code == 409
    told = refused.json()
    assert told["error"] == "CONFLICT"
    assert told["details"] == {"resource_type": "thread", "resource_id": "t"}


async def test_pages_newest_first_of_one_scope(mm: Mm) -> None:
    for number in range(5):
        await create(mm, thread_id=f"t{number}", app="b" if number == 4 else "a")
    await mm.say(mm.place(namespace="other", thread="elsewhere"))
    base = mm.place(app=None).namespace_path
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = (await mm.get(f"{base}/threads", params=query)).json()
        assert page["total"] == 5
        seen += [thread["thread_id"] for thread in page["threads"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    of_app = (await mm.get(f"{mm.place().namespace_path}/threads")).json()
    assert [thread["thread_id"] for thread in of_app["threads"]] == ["t3", "t2", "t1", "t0"]
    assert of_app["total"] == 4
    for place in (mm.place(), mm.place(app=None, workspace="w2")):
        refused = await mm.get(f"{place.namespace_path}/threads", params=query)
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["query", "cursor"]
    empty = (await mm.get(f"{mm.place(workspace='w2').namespace_path}/threads")).json()
    assert empty == {"total": 0, "has_more": False, "next_cursor": None, "threads": []}


@pytest.mark.parametrize(
    ("wrong", "loc"),
    [
        ({"workspace_id": "x"}, "workspace_id"),
        ({"app_id": "x"}, "app_id"),
        ({"thread_id": ""}, "thread_id"),
        ({"tags": [1]}, "tags"),
    ],
)
async def test_bodies_are_checked(mm: Mm, wrong: dict[str, Any], loc: str) -> None:
    refused = await mm.post(f"{mm.place().namespace_path}/threads", json=wrong)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][:2] == ["body", loc]


async def test_another_organization_has_no_threads(mm: Mm, add_mm: AddMm) -> None:
    stranger = await add_mm()
    for method in ("GET", "POST"):
        refused = await stranger.request(method, f"{mm.place().namespace_path}/threads")
        assert refused.status_code == 404
        assert refused.json()["details"]["resource_type"] == "organization"
