"""Attachments: what is attached to a thread, how far it was read, and who sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.ids import new_id
from tests.fixtures.system import StartWorker
from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.files.conftest import ARTIFACTS, Upload, ingested


async def message_of(user: User, thread_id: str) -> str:
    """A new message in a thread."""
    submitted = await user.submit(thread_id)
    return str(submitted.json()["inputMessageId"])


async def counted(admin: Any, thread_id: str) -> int:
    count: int = await admin.fetchval(
        "select attachment_count from threads where id = $1", thread_id
    )
    return count


async def test_an_attachment(user: User, upload: Upload, attach: Any, admin: Any) -> None:
    thread, artifact = await user.thread(), await upload(b"hello", "notes.md")
    answered = await attach(thread, artifact)
    assert answered.status_code == 201
    made = answered.json()
    assert answered.headers["location"] == f"/api/v1/chat/attachments/{made['id']}"
    assert made == {
        "id": made["id"], "threadId": thread, "artifactId": artifact["id"], "messageId": None,
        "scope": "thread", "ingestionStatus": "pending", "mimeType": "text/markdown",
        "originalFilename": "notes.md", "sizeBytes": 5, "createdBy": made["createdBy"],
        "createdAt": made["createdAt"], "updatedAt": made["updatedAt"],
    }  # fmt: skip
    assert (await user.get(f"/attachments/{made['id']}")).json() == made
    again = await attach(thread, artifact)
    assert (again.status_code, again.json()) == (200, made)
    message = await message_of(user, thread)
    scoped = (await attach(thread, artifact, messageId=message)).json()
    assert (scoped["scope"], scoped["messageId"]) == ("message", message)
    assert (await attach(thread, artifact, messageId=message)).json() == scoped
    assert (await user.get(f"/threads/{thread}/attachments")).json() == [made, scoped]
    assert await counted(admin, thread) == 2


async def test_a_body_is_not_needed(user: User, upload: Upload) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    path = f"/threads/{thread}/attachments?artifact_id={artifact['id']}"
    assert (await user.post(path)).status_code == 201
    assert (await user.post(path, json={"messageId": None})).status_code == 200


async def test_the_list_is_a_bare_array(user: User, upload: Upload, attach: Any) -> None:
    thread = await user.thread()
    ids = [(await attach(thread, await upload(b"%d" % n))).json()["id"] for n in range(4)]

    async def listed(query: str) -> list[str]:
        return [a["id"] for a in (await user.get(f"/threads/{thread}/attachments{query}")).json()]

    assert await listed("") == ids
    assert await listed("?limit=2&offset=1") == ids[1:3]
    assert await listed("?offset=4") == []
    for query in ("limit=0", "limit=101", "offset=-1", "limit=x"):
        assert (await user.get(f"/threads/{thread}/attachments?{query}")).status_code == 422


async def test_what_there_is_not(
    user: User, add_user: AddUser, upload: Upload, attach: Any
) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    other_thread = await user.thread()
    message = await message_of(user, other_thread)
    stranger = await add_user()
    theirs = await upload(b"secret", by=stranger)
    nobodys = {"id": new_id()}
    for answered, detail in (
        (await attach(str(new_id()), artifact), "Thread not found"),
        (await attach(await stranger.thread(), artifact), "Thread not found"),
        (await attach(thread, nobodys), "Artifact not found"),
        (await attach(thread, theirs), "Artifact not found"),
        (await attach(thread, artifact, messageId=message), "Message not found"),
        (await attach(thread, artifact, messageId=str(new_id())), "Message not found"),
        (await user.get(f"/threads/{new_id()}/attachments"), "Thread not found"),
        (await user.get(f"/attachments/{new_id()}"), "Attachment not found"),
        (await user.delete(f"/attachments/{new_id()}"), "Attachment not found"),
    ):
        assert (answered.status_code, answered.json()["detail"]) == (404, detail)
    assert (await attach(thread, artifact, messageId="x")).status_code == 422
    missing = await user.post(f"/threads/{thread}/attachments")
    assert missing.json()["detail"][0]["loc"] == ["query", "artifact_id"]
    assert missing.json()["detail"][0]["type"] == "missing"
    assert (await user.get(f"/threads/{thread}/attachments")).json() == []


async def test_attachments_are_their_users(
    user: User, add_user: AddUser, upload: Upload, attach: Any
) -> None:
    thread = await user.thread()
    made = (await attach(thread, await upload(b"hello"))).json()
    for other in (await add_user(user.tenant_id), await add_user()):
        for answered in (
            await other.get(f"/attachments/{made['id']}"),
            await other.delete(f"/attachments/{made['id']}"),
            await other.get(f"/threads/{thread}/attachments"),
        ):
            assert answered.status_code == 404
    assert (await user.get(f"/attachments/{made['id']}")).json() == made


async def test_detaching(user: User, upload: Upload, attach: Any, admin: Any) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    made = (await attach(thread, artifact)).json()
    async with asyncio.TaskGroup() as group:
        path = f"/attachments/{made['id']}"
        tasks = [group.create_task(user.delete(path)) for _ in range(4)]
    assert sorted(task.result().status_code for task in tasks) == [204, 404, 404, 404]
    assert await counted(admin, thread) == 0
    assert (await user.get(path)).status_code == 404
    assert (await user.get(f"/threads/{thread}/attachments")).json() == []
    assert (await user.get(f"{ARTIFACTS}/{artifact['id']}")).status_code == 200
    again = await attach(thread, artifact)
    assert (again.status_code, again.json()["id"] == made["id"]) == (201, False)
    assert await counted(admin, thread) == 1


async def test_a_deleted_thread_takes_its_attachments_along(
    user: User, upload: Upload, attach: Any
) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    made = (await attach(thread, artifact)).json()
    assert (await user.delete(f"/threads/{thread}")).status_code == 204
    assert (await user.get(f"/attachments/{made['id']}")).status_code == 404
    assert (await user.delete(f"/attachments/{made['id']}")).status_code == 404
    assert (await user.get(f"{ARTIFACTS}/{artifact['id']}")).status_code == 200


async def test_who_attaches_the_same_at_once_attaches_it_once(
    user: User, upload: Upload, attach: Any, admin: Any
) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attach(thread, artifact)) for _ in range(8)]
    answers = [task.result() for task in tasks]
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await counted(admin, thread) == 1


@pytest.mark.parametrize(
    ("data", "name", "status"),
    [
        (b"hello", "a.txt", "completed"),
        (b"", "empty.txt", "completed"),
        (b"<!doctype html><p>x", "a.txt", "completed"),
        (b"%PDF-1.7 broken", "a.pdf", "failed"),
        (b"PK\x03\x04 word/document.xml", "a.docx", "failed"),
        (b"\x89PNG\r\n\x1a\n", "a.txt", "none"),
        (b"PK\x03\x04", "a.zip", "none"),
        (b"\x00\x01\x02", "a.md", "none"),
        (b"<svg/>", "a.svg", "none"),
    ],
)  # fmt: skip
async def test_the_status_moves(
    user: User, upload: Upload, attach: Any, start_worker: StartWorker,
    data: bytes, name: str, status: str,
) -> None:  # fmt: skip
    thread, artifact = await user.thread(), await upload(data, name)
    made = (await attach(thread, artifact)).json()
    assert made["ingestionStatus"] == ("none" if status == "none" else "pending")
    await start_worker()
    told = await ingested(user, made["id"])
    assert told["ingestionStatus"] == status
    assert (told["updatedAt"] > made["updatedAt"]) == (status != "none")
    # Read once, whoever else attaches it.
    other = (await attach(await user.thread(), artifact)).json()
    assert other["ingestionStatus"] == status


async def test_what_is_inline_needs_no_reading(user: User, attach: Any) -> None:
    made = await user.post(ARTIFACTS, json={"kind": "json", "content": {"a": 1}})
    told = (await attach(await user.thread(), made.json())).json()
    assert told["ingestionStatus"] == "completed"
    assert told["mimeType"] == "application/json"
