"""Files in a bucket: the same as in a folder, by signed requests, in parts where they are large."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from shared.errors import ObjectStoreUnavailable
from shared.files.object_store import ObjectStore, object_key
from shared.ids import new_id
from shared.settings import Settings
from tests.fixtures.s3 import PAGE, S3Server, run_s3, settings_of
from tests.fixtures.system import StartWorker
from tests.integration.api_turns.conftest import User
from tests.integration.files.conftest import ARTIFACTS, Upload, ingested
from worker import jobs

MIB = 1_048_576


@pytest.fixture
async def bucket() -> AsyncIterator[S3Server]:
    async with run_s3() as bucket:
        yield bucket


@pytest.fixture
def settings(settings: Settings, bucket: S3Server) -> Settings:
    given = {**settings.model_dump(), **settings_of(bucket), "ingestion_poll_s": 0.1}
    return Settings.model_validate(given)


async def read(store: ObjectStore, key: str) -> bytes:
    async with store.read(key) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 12 * MIB + 1])
async def test_an_object_comes_back_as_it_was_stored(
    settings: Settings, bucket: S3Server, size: int
) -> None:
    store = ObjectStore(settings)
    key = object_key(new_id(), b"\0" * 32)
    data = bytes(range(251)) * (size // 251 + 1)
    await store.put(key, BytesIO(data[:size]))
    assert await read(store, key) == data[:size]
    assert list(bucket.objects) == [f"turnkeep/{key}"]
    is_large = size > 5 * MIB
    assert bucket.asked.count("PUT partNumber?uploadId") == (3 if is_large else 0)
    assert (bucket.refused, bucket.uploads) == (0, {})


async def test_a_listing_has_every_page_and_nothing_that_is_not_ours(
    settings: Settings, bucket: S3Server
) -> None:
    store = ObjectStore(settings)
    keys = [object_key(new_id(), bytes([number]) * 32) for number in range(2 * PAGE + 1)]
    for key in keys:
        await store.put(key, BytesIO(b"x"))
    await store.delete(keys[0])
    await store.delete(keys[0])
    bucket.objects["turnkeep/readme.txt"] = bucket.objects[f"turnkeep/{keys[1]}"]
    bucket.objects["another/readme.txt"] = bucket.objects[f"turnkeep/{keys[1]}"]
    listed = [stored.key async for page in store.list_pages() for stored in page]
    assert sorted(listed) == sorted(keys[1:])
    assert bucket.asked.count("GET list-type?prefix") == 1
    assert sum("continuation-token" in asked for asked in bucket.asked) == 2


async def test_who_has_the_wrong_secret_is_told_nothing_of_the_bucket(
    settings: Settings, bucket: S3Server
) -> None:
    wrong = settings.model_copy(update={"objects_secret_access_key": SecretStr("wrong")})
    store = ObjectStore(wrong)
    with pytest.raises(ObjectStoreUnavailable):
        await store.put(object_key(new_id(), b"\0" * 32), BytesIO(b"x"))
    assert bucket.objects == {}
    assert bucket.refused == 1


async def test_what_is_not_there_is_ours_to_miss(settings: Settings) -> None:
    store = ObjectStore(settings)
    with pytest.raises(ObjectStoreUnavailable):
        await read(store, object_key(new_id(), b"\0" * 32))


@pytest.mark.timeout(90)  # the first worker of a process imports the model libraries
async def test_a_file_is_uploaded_read_downloaded_and_collected(
    user: User,
    upload: Upload,
    attach: Any,
    app: Starlette,
    bucket: S3Server,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await start_worker()
    thread = (await user.post("/threads", json={})).json()
    artifact = await upload(b"The seal is kept at Graz.", "seal.txt")
    answered = await attach(thread["id"], artifact)
    told = await ingested(user, answered.json()["id"])
    assert told["ingestionStatus"] == "completed"
    content = await user.get(f"{ARTIFACTS}/{artifact['id']}/content")
    assert (content.status_code, content.content) == (200, b"The seal is kept at Graz.")
    assert len(bucket.objects) == 1
    # What nobody names is collected, what somebody names is not.
    store: ObjectStore = app.state.objects
    await store.put(object_key(user.tenant_id, b"\0" * 32), BytesIO(b"left over"))
    assert len(bucket.objects) == 2
    monkeypatch.setattr(jobs, "OBJECT_GRACE", timedelta(seconds=-5))
    await jobs.collect_objects({"database": app.state.database, "objects": store})
    assert [data for data, _ in bucket.objects.values()] == [b"The seal is kept at Graz."]


async def test_a_bucket_that_fails_costs_a_503_and_stores_nothing(
    user: User, bucket: S3Server, admin: Any
) -> None:
    bucket.is_broken = True
    sent = {"file": ("a.txt", b"x", "text/plain")}
    answered = await user.post(f"{ARTIFACTS}/upload", files=sent)
    assert answered.status_code == 503
    assert "retry-after" in answered.headers
    assert await admin.fetchval("select count(*) from artifacts") == 0
