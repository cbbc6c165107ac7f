"""Projects and threads: who sees them, pages of them, and what else the workspace shows."""

from __future__ import annotations

from typing import Any

import pytest

from shared.ids import new_id
from tests.fixtures.system import RunningWorker
from tests.integration.zylon_surface.conftest import AddMember, Member, bare
from tests.integration.zylon_surface.test_transcripts import upload


async def test_a_project(member: Member) -> None:
    body = {"name": "Q1", "goal": "More", "deadline": "2026-03-01T00:00:00+01:00"}
    made = await member.post("/project", json={**body, "visibility": "Public"})
    assert made.status_code == 201
    told = made.json()
    assert made.headers["location"] == f"/api/v1/app/project/{told['id']}"
    assert (told["name"], told["goal"], told["visibility"]) == ("Q1", "More", "Public")
    assert told["deadline"] == "2026-02-28T23:00:00Z"
    assert (await member.get(f"/project/{told['id']}")).json() == told
    assert (await member.get(f"/project/{bare(told['id'])}")).json() == told
    listed = (await member.get("/project")).json()
    assert [one["is_default"] for one in listed["data"]] == [True, False]
    assert listed["data"][0]["id"] == member.project_id


@pytest.mark.parametrize("deadline", [5, 5.5, "5", "1772323200", "2026-03-01T00:00:00", True])
async def test_a_deadline_is_a_time_as_it_is_written(member: Member, deadline: Any) -> None:
    body = {"name": "Q1", "visibility": "Public", "deadline": deadline}
    refused = await member.post("/project", json=body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert refused.json()["error"]["message"].startswith("deadline: Input should")
    assert (await member.post("/project", json={**body, "deadline": None})).status_code == 201


async def test_a_private_project_is_its_makers_alone(
    member: Member, add_member: AddMember, worker: RunningWorker
) -> None:
    colleague = await add_member(member)
    project = await member.project("Private")
    thread = await member.thread("Public", project)
    made = await member.asked(thread)
    member.project_id = project
    artifact = (await upload(member))["id"]
    for path in (
        f"/project/{project}", f"/project/{project}/thread", f"/project/{project}/artifact",
        f"/thread/{thread}", f"/thread/{thread}/interaction", f"/interaction/{made['id']}",
        f"/interaction/{made['id']}/stream", f"/artifact/{artifact}",
    ):  # fmt: skip
        assert (await member.get(path)).status_code == 200, path
        assert (await colleague.get(path)).status_code == 404, path
    assert [one["name"] for one in (await colleague.get("/project")).json()["data"]] == ["Default"]


async def test_a_private_thread_is_its_makers_alone(
    member: Member, add_member: AddMember, worker: RunningWorker
) -> None:
    colleague = await add_member(member)
    thread = await member.thread("Private")
    made = await member.asked(thread)
    await sweep(colleague, thread, made["id"])
    assert (await colleague.get(f"/project/{member.project_id}/thread")).json()["data"] == []


async def sweep(who: Member, thread: str, interaction: str) -> None:
    """All that can be asked of a thread and its interaction: as of ones that do not exist."""
    body = {"pgpt": {"messages": [{"role": "user", "content": "x"}]}}
    unknown = new_id().hex
    for method, path, sent in (
        ("GET", "/thread/{thread}", None),
        ("PUT", "/thread/{thread}", {"name": "stolen"}),
        ("DELETE", "/thread/{thread}", None),
        ("GET", "/thread/{thread}/interaction", None),
        ("POST", "/thread/{thread}/interaction", body),
        ("GET", "/interaction/{inter}", None),
        ("DELETE", "/interaction/{inter}", None),
        ("POST", "/interaction/{inter}/cancel", None),
        ("GET", "/interaction/{inter}/stream", None),
    ):
        theirs = path.format(thread=thread, inter=interaction)
        absent = path.format(thread=f"thread_{unknown}", inter=f"inter_{unknown}")
        answers = [await who.request(method, one, json=sent) for one in (theirs, absent)]
        assert [one.status_code for one in answers] == [404, 404], (method, path)
        assert answers[0].content == answers[1].content, (method, path)


async def test_another_tenant_sees_nothing(
    member: Member, add_member: AddMember, worker: RunningWorker
) -> None:
    stranger = await add_member()
    thread = await member.thread("Public")
    made = await member.asked(thread)
    artifact = await upload(member)
    await sweep(stranger, thread, made["id"])
    for path in (
        f"/project/{member.project_id}", f"/project/{member.project_id}/thread",
        f"/project/{member.project_id}/artifact", f"/artifact/{artifact['id']}",
    ):  # fmt: skip
        foreign = await stranger.get(path)
        absent = await stranger.get(path.rpartition("_")[0] + f"_{new_id().hex}")
        assert foreign.status_code == 404
        assert path.count("/") > 2 or foreign.content == absent.content
    assert (await member.get(f"/thread/{thread}")).status_code == 200


async def test_a_colleague_uses_a_public_thread_with_its_owners_rights(
    member: Member, add_member: AddMember, worker: RunningWorker
) -> None:
    colleague = await add_member(member)
    thread = await member.thread("Public")
    made = await colleague.asked(thread)
    assert (await member.get(f"/interaction/{made['id']}")).json() == made
    listed = (await colleague.get(f"/project/{member.project_id}/thread?include=User")).json()
    (told,) = listed["data"]
    assert told["created_by"] == {"id": f"user_{member.user_id.hex}", "name": "u0"}
    running = await member.scripted(thread, deltas=1, hangAfter=1)
    assert (await colleague.post(f"/interaction/{running}/cancel")).status_code == 204
    assert (await colleague.delete(f"/interaction/{made['id']}")).status_code == 200
    hidden = await colleague.put(f"/thread/{thread}", json={"visibility": "Private"})
    assert (hidden.status_code, hidden.json()["visibility"]) == (200, "Private")
    assert (await colleague.get(f"/thread/{thread}")).status_code == 404
    assert (await member.get(f"/thread/{thread}")).status_code == 200


async def test_threads_of_other_surfaces_are_in_the_default_project(member: Member) -> None:
    born_elsewhere = await member.chat.thread()
    here = await member.thread()
    listed = (await member.get(f"/project/{member.project_id}/thread")).json()
    assert [bare(one["id"]) for one in listed["data"]] == [born_elsewhere, bare(here)]
    assert {one["project_id"] for one in listed["data"]} == {member.project_id}
    elsewhere = {one["id"] for one in (await member.chat.get("/threads")).json()["items"]}
    assert elsewhere == {born_elsewhere, bare(here)}
    other = await member.project()
    assert (await member.get(f"/project/{other}/thread")).json()["data"] == []
    deleted = await member.get(f"/project/{member.project_id}/thread?state=Deleted")
    assert (deleted.json()["data"], deleted.json()["total_count"]) == ([], 0)


# -- pages


async def pages(member: Member, path: str, query: str) -> list[list[str]]:
    """All pages from one on, by their cursors."""
    found = []
    told = (await member.get(f"{path}?{query}")).json()
    while True:
        found.append([one["name"] for one in told["data"]])
        if not told["has_next_page"]:
            assert "next_cursor" not in told
            return found
        order = "&page_order=DESC" if "DESC" in query else ""
        following = f"{path}?first=2&after={told['next_cursor']}{order}"
        told = (await member.get(following)).json()
        assert told["has_previous_page"]


async def test_pages_by_number_and_by_cursor(member: Member, add_member: AddMember) -> None:
    colleague = await add_member(member)
    project = await member.project()
    path = f"/project/{project}/thread"
    for number in range(5):  # of two people, and a private one of somebody else's between
        who = member if number % 2 else colleague
        await who.thread("Public" if number % 2 == 0 else "Private", project, f"t{number}")
        await colleague.thread("Private", project, "hidden")
    names = [f"t{number}" for number in range(5)]
    assert await pages(member, path, "page_size=2") == [names[:2], names[2:4], names[4:]]
    newest = names[::-1]
    assert await pages(member, path, "first=2&page_order=DESC") == [
        newest[:2], newest[2:4], newest[4:],
    ]  # fmt: skip
    second = (await member.get(f"{path}?page=2&page_size=2")).json()
    assert [one["name"] for one in second["data"]] == names[2:4]
    assert (second["has_next_page"], second["has_previous_page"]) == (True, True)
    assert second["total_count"] == 5
    before = (await member.get(f"{path}?last=2&before={second['previous_cursor']}")).json()
    assert [one["name"] for one in before["data"]] == names[:2]
    assert (before["has_next_page"], before["has_previous_page"]) == (True, False)
    last = (await member.get(f"{path}?last=2&total_count=false")).json()
    assert [one["name"] for one in last["data"]] == names[3:]
    assert (last["has_next_page"], last["has_previous_page"]) == (False, True)
    assert "total_count" not in last
    beyond = (await member.get(f"{path}?page=9&page_size=2")).json()
    assert (beyond["data"], beyond["has_previous_page"]) == ([], True)
    assert beyond["has_next_page"] is False
    far = (await member.get(f"{path}?page={2**53}&page_size=100")).json()
    assert (far["data"], far["has_previous_page"]) == ([], True)
    assert (await member.get(f"{path}?after=")).json() == (await member.get(path)).json()
    for name in ("after", "before"):
        refused = (await member.get(f"{path}?{name}=x")).json()
        assert refused["error"]["message"] == f"{name}: Invalid cursor"


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=1.5", "page=x", "page_size=0", "page_size=101", "page_order=asc",
        "first=0", "last=101", "after=x", "before=x", "page=1&after=x", "first=1&last=1",
        "page=1&page=2", "state=Gone", "total_count=perhaps",
    ],
)  # fmt: skip
async def test_a_wrong_page_is_refused(member: Member, query: str) -> None:
    refused = await member.get(f"/project/{member.project_id}/thread?{query}")
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["type"] == "invalid_request_error"


async def test_a_cursor_of_another_list_is_refused(member: Member) -> None:
    one, other = await member.project(), await member.project()
    for _ in range(2):
        await member.thread(project=one)
    told = (await member.get(f"/project/{one}/thread?page_size=1")).json()
    refused = await member.get(f"/project/{other}/thread?after={told['next_cursor']}")
    assert refused.status_code == 400


async def test_pages_of_interactions(member: Member) -> None:
    """In the order in which they were accepted. No worker runs."""
    thread = await member.thread()
    made = [
        (await member.asked(thread, f"q{number}", pgpt={"stream": True}))["id"]
        for number in range(3)
    ]
    path = f"/thread/{thread}/interaction"
    first = (await member.get(f"{path}?page_size=2")).json()
    assert [one["id"] for one in first["data"]] == made[:2]
    rest = (await member.get(f"{path}?after={first['next_cursor']}")).json()
    assert [one["id"] for one in rest["data"]] == made[2:]
    newest = (await member.get(f"{path}?page_order=DESC&page_size=1")).json()
    assert [one["id"] for one in newest["data"]] == made[2:]
    assert newest["total_count"] == 3


# -- threads


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"visibility": "Private"},
        {"name": "", "visibility": "Private"},
        {"name": "x" * 256, "visibility": "Private"},
        {"name": 1, "visibility": "Private"},
        {"name": "x", "visibility": "private"},
        {"name": "x", "visibility": None},
        [],
    ],
)
async def test_a_wrong_thread_is_refused(member: Member, body: Any) -> None:
    refused = await member.post(f"/project/{member.project_id}/thread", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


async def test_an_update_changes_what_it_names(member: Member) -> None:
    thread = await member.thread()
    for body, name, visibility in (
        ({"name": "Other"}, "Other", "Private"),
        ({"visibility": "Public"}, "Other", "Public"),
        ({}, "Other", "Public"),
        ({"name": None}, "Other", "Public"),
    ):
        told = (await member.put(f"/thread/{thread}", json=body)).json()
        assert (told["name"], told["visibility"]) == (name, visibility)
    assert (await member.put(f"/thread/{thread}", json={"visibility": "x"})).status_code == 400


async def test_ids_are_taken_with_and_without_their_word(member: Member) -> None:
    thread = await member.thread()
    digits = thread.removeprefix("thread_")
    for written in (thread, digits, bare(thread), bare(thread).upper()):
        assert (await member.get(f"/thread/{written}")).json()["id"] == thread
    for wrong in (f"inter_{digits}", "thread_", f"{thread}0", f"thread_thread_{digits}", "x"):
        refused = await member.get(f"/thread/{wrong}")
        assert refused.status_code == 404
        assert refused.json()["error"] == {"type": "not_found_error", "message": "Thread not found"}


@pytest.mark.parametrize("wrong", ["another", "malformed"])
async def test_a_body_that_names_another_thread_is_refused(member: Member, wrong: str) -> None:
    thread, other = await member.thread(), await member.thread()
    told = other if wrong == "another" else "x"
    refused = await member.ask(thread, thread_id=told)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("thread_id: ")


# -- who asks, and artifacts


async def test_who_asks(member: Member) -> None:
    told = (await member.get("/me")).json()
    assert told["id"] == f"user_{member.user_id.hex}"
    assert told["organization"]["id"] == f"org_{member.tenant_id.hex}"
    assert told["email"] == "u0@example.org"


async def test_the_organization_may_be_named(member: Member, admin: Any) -> None:
    await admin.execute("update tenants set slug = 'acme' where id = $1", member.tenant_id)
    for right in (str(member.tenant_id), f"org_{member.tenant_id.hex}", "acme"):
        assert (await member.get("/me", headers={"x-org": right})).status_code == 200
    for wrong in (str(new_id()), "other", ""):
        refused = await member.get("/me", headers={"x-org": wrong})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == "Organization not found"
    # What Postgres gives a tenant that was made without a short name.
    await admin.execute("update tenants set slug = default where id = $1", member.tenant_id)
    slug = await admin.fetchval("select slug from tenants where id = $1", member.tenant_id)
    assert (await member.get("/me", headers={"x-org": slug})).status_code == 200


async def test_artifacts_of_a_project(member: Member, worker: RunningWorker) -> None:
    told = await upload(member)
    assert told["name"] == "report"
    assert told["ingest_status"] == "Done"
    assert (told["state"], told["type"], told["props"]) == ("Published", "Document", {})
    assert told["project_id"] == member.project_id
    listed = (await member.get(f"/project/{member.project_id}/artifact")).json()
    assert (listed["data"], listed["total_count"]) == ([told], 1)
    image = await member.post(
        f"/project/{member.project_id}/artifact",
        data={"type": "Document", "name": "cat", "props": '{"a": 1}'},
        files={"fileData": ("cat.png", b"\x89PNG\r\n\x1a\n", "image/png")},
    )
    assert (image.json()["ingest_status"], image.json()["props"]) == ("NotApplicable", {"a": 1})


@pytest.mark.parametrize(
    ("data", "files", "told"),
    [
        ({"type": "Document"}, {"other": ("a", b"x")}, "fileData: Field required"),
        ({"type": "Folder"}, {"fileData": ("a", b"x")}, "type: Input should be 'Document'"),
        ({"props": "[1]"}, {"fileData": ("a", b"x")}, "props: Input should be a JSON object"),
        ({"props": "{"}, {"fileData": ("a", b"x")}, "props: Input should be a JSON object"),
        ({"name": "x" * 256}, {"fileData": ("a", b"x")}, "name: String should have at most"),
    ],
)
async def test_a_wrong_upload_is_refused(
    member: Member, data: dict[str, str], files: Any, told: str
) -> None:
    path = f"/project/{member.project_id}/artifact"
    refused = await member.post(path, data=data, files=files)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(told)
    assert (await member.get(path)).json()["data"] == []
