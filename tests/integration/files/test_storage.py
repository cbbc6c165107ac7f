"""How much a tenant may store, and how it gets rid of what it has stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from shared.settings import Settings
from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.files.conftest import ARTIFACTS, Upload
from tests.integration.files.test_effect import file_part, message
from worker import jobs

MOST, MOST_BYTES, MOST_ATTACHED = 4, 1000, 3
Objects = Callable[[], list[Path]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "max_artifacts_per_tenant": MOST,
            "max_stored_bytes_per_tenant": MOST_BYTES,
            "max_attachments_per_thread": MOST_ATTACHED,
        }
    )


@pytest.fixture
def purge(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Purges what was deleted at least so many seconds ago."""

    async def purge(grace_s: float = -1.0) -> int:
        monkeypatch.setattr(jobs, "ARTIFACT_GRACE_S", grace_s)
        state: Any = app.state
        return await jobs.purge_artifacts({"database": state.database, "objects": state.objects})

    return purge


async def send_file(user: User, data: bytes = b"x") -> httpx.Response:
    sent = {"file": ("a.txt", data, "text/plain")}
    return await user.post(f"{ARTIFACTS}/upload", files=sent)


async def create_text(user: User, text: str = "x") -> httpx.Response:
    return await user.post(ARTIFACTS, json={"kind": "text", "content": text})


async def say_file(
    user: User, thread: str, data: bytes = b"x", key: str | None = None
) -> httpx.Response:
    """Submits a message with a file; comes again where a slow machine says so."""
    body = message(file_part(data, "a.txt"), modelId="scripted")
    headers = {} if key is None else {"idempotency-key": key}
    while True:
        answered = await user.post(f"/threads/{thread}/turns", json=body, headers=headers)
        if answered.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            return answered
        await asyncio.sleep(0.5)


async def used(admin: Any, user: User) -> tuple[int, int]:
    """What is counted, which is what there is."""
    row = await admin.fetchrow(
        "select artifact_count, size_bytes from storage_use where tenant_id = $1", user.tenant_id
    )
    there = await admin.fetchrow(
        "select count(*) as artifact_count, coalesce(sum(size_bytes), 0)::bigint as size_bytes"
        " from artifacts where tenant_id = $1",
        user.tenant_id,
    )
    assert row is None or tuple(row) == tuple(there)
    return tuple(there)


@pytest.mark.parametrize("limit", ["count", "bytes"])
async def test_beyond_the_quota_nothing_is_stored(
    user: User, add_user: AddUser, objects: Objects, admin: Any, limit: str
) -> None:
    thread = await user.thread()
    assert (await say_file(user, thread, key="k")).status_code == 202
    if limit == "count":
        for number in range(MOST - 1):
            assert (await create_text(user, f"{number}")).status_code == 201
    else:
        assert (await send_file(user, b"y" * (MOST_BYTES - 1))).status_code == 201
    before, stored = await used(admin, user), len(objects())
    for answered in (
        await send_file(user, b"new"),
        await send_file(user),  # what the tenant has stored already
        await create_text(user),
        await say_file(user, thread, b"new"),
    ):
        assert answered.status_code == 409, answered.text
        assert "Your organization would have more than" in answered.json()["detail"]
    replayed = await say_file(user, thread, key="k")
    assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (202, "true")
    assert (await used(admin, user), len(objects())) == (before, stored)
    assert len((await user.get("/turns")).json()["items"]) == 1
    assert (await user.submit(thread)).status_code == 202, "without a file"
    assert (await send_file(await add_user())).status_code == 201, "another tenant"


async def test_uploads_at_once_do_not_pass_the_quota(user: User, admin: Any) -> None:
    thread = await user.thread()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send_file(user, b"%d" % n)) for n in range(4)]
        tasks += [group.create_task(create_text(user)) for _ in range(3)]
        tasks += [group.create_task(say_file(user, thread, b"m%d" % n)) for n in range(3)]
    statuses = [task.result().status_code for task in tasks]
    assert sum(status in {201, 202} for status in statuses) == MOST, statuses
    assert statuses.count(409) == len(tasks) - MOST
    assert (await used(admin, user))[0] == MOST


async def test_a_deleted_artifact_is_gone_everywhere(
    user: User, add_user: AddUser, upload: Upload, attach: Any, admin: Any
) -> None:
    colleague, stranger = await add_user(user.tenant_id), await add_user()
    artifact, kept = await upload(b"hello"), await upload(b"other")
    mine, theirs = await user.thread(), await colleague.thread()
    attached = [(await attach(mine, artifact)).json()["id"]]
    await attach(mine, kept)
    path = f"/threads/{theirs}/attachments?artifact_id={artifact['id']}"
    attached.append((await colleague.post(path)).json()["id"])
    path = f"{ARTIFACTS}/{artifact['id']}"
    foreign, unknown = await stranger.delete(path), await stranger.delete(f"{ARTIFACTS}/{new_id()}")
    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    assert (await colleague.delete(path)).status_code == 403
    assert (await user.get(path)).status_code == 200
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(user.delete(path)) for _ in range(3)]
    assert sorted(task.result().status_code for task in tasks) == [204, 404, 404]
    for suffix in ("", "/content"):
        assert (await user.get(path + suffix)).status_code == 404
    assert (await attach(mine, artifact)).json()["detail"] == "Artifact not found"
    listed = (await user.get(ARTIFACTS)).json()
    assert ([a["id"] for a in listed["artifacts"]], listed["total"]) == ([kept["id"]], 1)
    for who, attachment in zip((user, colleague), attached, strict=True):
        assert (await who.get(f"/attachments/{attachment}")).status_code == 404
    assert len((await user.get(f"/threads/{mine}/attachments")).json()) == 1
    assert (await colleague.get(f"/threads/{theirs}/attachments")).json() == []
    counts = "select attachment_count from threads where id = any($1) order by created_at"
    rows = await admin.fetch(counts, [mine, theirs])
    assert [row["attachment_count"] for row in rows] == [1, 0]


async def test_a_private_artifact_is_deleted_by_its_owner_alone(
    user: User, add_user: AddUser
) -> None:
    thread = await user.thread()
    await say_file(user, thread)
    (attachment,) = (await user.get(f"/threads/{thread}/attachments")).json()
    path = f"{ARTIFACTS}/{attachment['artifactId']}"
    assert (await (await add_user(user.tenant_id)).delete(path)).status_code == 404
    assert (await user.delete(path)).status_code == 204
    assert (await user.get(f"/threads/{thread}/attachments")).json() == []


async def test_purging_gives_back_what_was_taken(
    user: User, attach: Any, objects: Objects, admin: Any, purge: Any
) -> None:
    thread = await user.thread()
    twins = [(await send_file(user, b"twin")).json() for _ in range(2)]
    single = (await send_file(user, b"single")).json()
    text = (await create_text(user)).json()
    await attach(thread, single)
    for artifact in (twins[0], single, text):
        assert (await user.delete(f"{ARTIFACTS}/{artifact['id']}")).status_code == 204
    assert (await used(admin, user))[0] == MOST, "until it is purged"
    assert (await send_file(user)).status_code == 409
    assert await purge(60.0) == 0
    assert len(objects()) == 2
    assert await purge() == 3
    assert await used(admin, user) == (1, 4)
    assert len(objects()) == 1
    content = await user.get(f"{ARTIFACTS}/{twins[1]['id']}/content")
    assert content.content == b"twin", "another artifact has it"
    again = (await send_file(user, b"single")).json()
    assert (await user.get(f"{ARTIFACTS}/{again['id']}/content")).content == b"single"
    assert (await used(admin, user))[0] == 2


async def test_what_somebody_stores_again_is_not_purged(
    app: Starlette, user: User, upload: Upload, admin: Any, purge: Any
) -> None:
    """Whoever was told that a content is stored finds it there, though its row comes later."""
    artifact = await upload(b"hello")
    await admin.execute("update stored_files set stored_at = now() - interval '2 h'")
    assert (await user.delete(f"{ARTIFACTS}/{artifact['id']}")).status_code == 204
    await admin.execute("update artifacts set deleted_at = now() - interval '2 h'")
    service: Any = app.state.artifacts
    put, files = service._objects.put, []

    async def pause(key: str, file: Any) -> None:
        files.append(key)
        await put(key, file)

    service._objects.put = pause
    asked = service._make

    async def purge_first(*args: Any) -> Any:
        assert await purge(3600.0) == 0
        return await asked(*args)

    service._make = purge_first
    again = await upload(b"hello")
    assert files == [], "it was stored"
    assert (await user.get(f"{ARTIFACTS}/{again['id']}/content")).content == b"hello"


async def test_a_thread_has_so_many_attachments(user: User, attach: Any, upload: Upload) -> None:
    thread, artifacts = await user.thread(), [await upload(b"%d" % n) for n in range(3)]
    for artifact in artifacts[:2]:
        assert (await attach(thread, artifact)).status_code == 201
    assert (await say_file(user, thread)).status_code == 202
    refused = await attach(thread, artifacts[2])
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith("A thread may have at most 3 attachments")
    assert (await attach(thread, artifacts[0])).status_code == 200, "it is attached already"
    assert (await say_file(user, thread, b"y")).status_code == 409
    (first, *_) = (await user.get(f"/threads/{thread}/attachments")).json()
    assert (await user.delete(f"/attachments/{first['id']}")).status_code == 204
    assert (await attach(thread, artifacts[2])).status_code == 201
