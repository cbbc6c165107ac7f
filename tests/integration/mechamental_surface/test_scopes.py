"""Organizations, workspaces, apps, namespaces: what is whose, and what a token reaches."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest

from shared.ids import new_id
from shared.turn.model import Reach
from tests.integration.mechamental_surface.conftest import AddMm, Mm, Place

REQUESTS: list[tuple[str, str, bool]] = [
    ("GET", "", False),
    ("DELETE", "", False),
    ("POST", "/context", True),
    ("DELETE", f"/{UUID(int=1)}?timestamp=2026-01-01T00:00:00Z", False),
]
"""What needs a thread that is there: method, rest of the path, with a body."""


async def ask(
    mm: Mm, place: Place, method: str, rest: str, has_body: bool
) -> tuple[int, dict[str, Any]]:
    body = place.ids if has_body else None
    answered: httpx.Response = await mm.request(method, f"{place.path}{rest}", json=body)
    told = answered.json()
    if isinstance(told, dict):
        told.pop("timestamp", None)
    return answered.status_code, told


@pytest.mark.parametrize(("method", "rest", "has_body"), REQUESTS)
async def test_what_is_foreign_looks_as_if_it_were_not_there(
    mm: Mm, add_mm: AddMm, method: str, rest: str, has_body: bool
) -> None:
    place = mm.place()
    await mm.say(place)
    stranger = await add_mm()
    # Another tenant's organization is as unknown as one that nobody has, thread or no thread.
    foreign = await ask(stranger, place, method, rest, has_body)
    unknown = await ask(stranger, Place(str(new_id())), method, rest, has_body)
    assert foreign[0] == unknown[0] == 404
    for status, told in (foreign, unknown):
        assert (status, told.pop("details")["resource_type"]) == (404, "organization")
    assert foreign == unknown
    # The same names in the stranger's own organization lead to nothing.
    status, told = await ask(stranger, stranger.place(), method, rest, has_body)
    assert status == 404
    assert told["details"] == {"resource_type": "thread", "resource_id": "t"}
    assert await mm.listed(place) == ["Hello"]


@pytest.mark.parametrize("other", [{"workspace": "w2"}, {"namespace": "n2"}, {"thread": "t2"}])
async def test_scopes_are_apart(mm: Mm, other: dict[str, str]) -> None:
    here, there = mm.place(), mm.place(**other)
    await mm.say(here, "here")
    for request in REQUESTS:
        assert (await ask(mm, there, *request))[0] == 404
    await mm.say(there, "there")
    assert await mm.listed(here) == ["here"]
    assert await mm.listed(there) == ["there"]


async def test_an_app_is_part_of_what_must_match(mm: Mm) -> None:
    here, there, any_app = mm.place(), mm.place(app="b"), mm.place(app=None)
    await mm.say(here, "here")
    for request in REQUESTS:
        status, told = await ask(mm, there, *request)
        assert (status, told["error"]) == (404, "RESOURCE_NOT_FOUND")
    body = {**there.ids, "role": "user", "content": "there"}
    refused = await mm.post(there.path, json=body)
    assert (refused.status_code, refused.json()["error"]) == (409, "CONFLICT")
    refused = await mm.post(any_app.path, json=body)
    assert refused.status_code == 409
    # A path without an app leads to the thread of whatever app.
    assert await mm.listed(any_app) == ["here"]
    told = await mm.say(any_app, "two")
    assert told["app_id"] == "a"
    bare = mm.place(app=None, thread="bare")
    assert (await mm.say(bare))["app_id"] is None
    assert (await mm.get(mm.place(thread="bare").path)).status_code == 404


async def test_threads_are_shared_within_the_tenant(mm: Mm, add_mm: AddMm) -> None:
    place = mm.place()
    await mm.say(place, "mine")
    colleague = await add_mm(mm.tenant_id)
    told = await colleague.say(place, "theirs")
    assert await mm.listed(place) == ["mine", "theirs"]
    (thread,) = (await mm.chat.get("/threads")).json()["items"]
    messages = (await mm.chat.get(f"/threads/{thread['id']}/messages")).json()["items"]
    assert [m["createdBy"] for m in messages] == [str(mm.user_id), str(colleague.user_id)]
    assert (await colleague.chat.get("/threads")).json()["items"] == []
    at = told["created_at"]
    deleted = await mm.delete(f"{place.path}/{told['message_id']}?timestamp={at}")
    assert deleted.status_code == 200
    assert (await colleague.delete(place.path)).status_code == 200


@pytest.mark.parametrize(
    ("reach", "lacking"),
    [
        (Reach(workspaces=frozenset({"other"})), "workspaces:access"),
        (Reach(namespaces=frozenset({"other"})), "namespaces:access"),
        (Reach(permissions=frozenset()), None),
    ],
)
async def test_a_restricted_token_is_told_what_it_lacks(
    mm: Mm, add_mm: AddMm, reach: Reach, lacking: str | None
) -> None:
    place = mm.place()
    await mm.say(place)
    held = await add_mm(like=mm, reach=reach)
    body = {**place.ids, "role": "user", "content": "x"}
    for method, path, json, permission in (
        ("GET", place.path, None, "messages:read"),
        ("POST", place.path, body, "messages:write"),
        ("POST", place.path, {"nonsense": 1}, "messages:write"),
        ("DELETE", place.path, None, "messages:write"),
        ("POST", f"{place.path}/context", body, "messages:read"),
        ("DELETE", f"{place.path}/x?timestamp=x", None, "messages:write"),
        ("GET", f"{place.namespace_path}/threads", None, "threads:read"),
        ("POST", f"{place.namespace_path}/threads", {}, "threads:write"),
    ):
        refused = await held.request(method, path, json=json)
        assert refused.status_code == 403, (method, path)
        told = refused.json()
        assert told.pop("timestamp")
        assert told == {
            "error": "FORBIDDEN",
            "message": "You don't have permission to perform this action",
            "details": {"required_permission": lacking or permission},
            "status_code": 403,
        }
    assert await mm.listed(place) == ["Hello"]


async def test_a_token_works_where_it_reaches(mm: Mm, add_mm: AddMm) -> None:
    reach = Reach(frozenset({"w"}), frozenset({"n"}), frozenset({"messages:read"}))
    await mm.say(mm.place())
    held = await add_mm(like=mm, reach=reach)
    assert await held.listed(mm.place()) == ["Hello"]
    assert await held.listed(mm.place(app=None)) == ["Hello"]
    assert (await held.get(mm.place(workspace="w2").path)).status_code == 403


async def test_a_thread_without_a_name_is_in_the_default_scope(mm: Mm, add_mm: AddMm) -> None:
    thread_id = await mm.chat.thread()
    await mm.chat.submit(thread_id, message="asked elsewhere")
    default = {"workspace": "default", "namespace": "default", "thread": thread_id}
    for app in ("default", None):
        place = mm.place(app=app, **default)
        assert (await mm.listed(place))[:1] == ["asked elsewhere"]
    place = mm.place(app=None, **default)
    told = await mm.say(place, "said here", app_id=None)
    assert (told["app_id"], told["thread_id"]) == ("default", thread_id)
    for other in ({"app": "a"}, {"workspace": "w"}, {"namespace": "n"}):
        assert (await mm.get(mm.place(**{**default, **other}).path)).status_code == 404
    colleague = await add_mm(mm.tenant_id)
    private = mm.place(app="default", **default)
    unknown = mm.place(app="default", **{**default, "thread": str(new_id())})
    for request in REQUESTS:
        status, told = await ask(colleague, private, *request)
        assert (status, told.pop("details")["resource_id"]) == (404, thread_id)
        other_status, other_told = await ask(colleague, unknown, *request)
        del other_told["details"]
        assert (status, told) == (other_status, other_told)


async def test_the_id_of_a_named_thread_opens_no_other_way_to_it(mm: Mm, add_mm: AddMm) -> None:
    await mm.say(mm.place(workspace="secret"))
    (thread,) = (await mm.chat.get("/threads")).json()["items"]
    held = await add_mm(like=mm, reach=Reach(workspaces=frozenset({"default"})))
    place = mm.place(workspace="default", app="default", namespace="default", thread=thread["id"])
    assert (await held.get(place.path)).status_code == 404
    assert (await mm.get(place.path)).status_code == 404


@pytest.mark.parametrize("name", ["n" * 256, "a%00b"])
@pytest.mark.parametrize("part", ["workspace", "app", "namespace", "thread"])
async def test_ids_that_none_can_be(mm: Mm, part: str, name: str) -> None:
    refused = await mm.get(mm.place(**{part: name}).path)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["path", f"{part}_id"]


async def test_ids_are_any_text(mm: Mm) -> None:
    odd = "ü ?#&=+😀'\";--"
    place = mm.place()
    path = f"/v1/orgs/{mm.tenant_id}/workspaces/{{0}}/apps/{{0}}/namespaces/{{0}}/threads/{{0}}"
    address = path.format(quote(odd, safe="")) + "/messages"
    ids = dict.fromkeys(place.ids, odd)
    made = await mm.post(address, json={**ids, "role": "user", "content": "x"})
    assert made.status_code == 201, made.text
    assert made.json().items() >= ids.items()
    assert (await mm.get(address)).json()["total"] == 1
