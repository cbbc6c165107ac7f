"""The ingester: no file is lost, none is read twice at once, none stands in another's way."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from arq.connections import ArqRedis
from starlette.applications import Starlette

from shared.errors import ObjectStoreUnavailable
from shared.files.object_store import ObjectStore, object_key
from shared.ids import new_id
from shared.jobs import INGEST_FILES, deserialize_job, serialize_job
from shared.metrics import Metrics
from shared.redis.connection import RedisConnection
from shared.service.doorbell import Doorbell
from shared.settings import Settings
from tests.fixtures.documents import encrypted_pdf, pdf, pdf_page
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.files.conftest import Upload, ingested
from worker.ingestion import ingester as module
from worker.ingestion.ingester import MAX_TRIES, Ingester
from worker.ingestion.reading import Reading, ReadingFailed
from worker.jobs import collect_objects


@pytest.fixture
def ingester(app: Starlette, settings: Settings) -> Ingester:
    """One of a worker that runs nothing else."""
    return Ingester(
        database=app.state.database,
        objects=ObjectStore(settings),
        settings=settings,
        metrics=Metrics(),
    )


async def file_of(admin: Any) -> Any:
    return await admin.fetchrow("select * from stored_files")


async def be_due(admin: Any) -> None:
    """What waits may be tried now; what is read counts as lost."""
    await admin.execute(
        "update stored_files set ingestion_due_at = now() where ingestion_due_at is not null"
    )


@pytest.fixture
async def pending(user: User, upload: Upload, attach: Any) -> str:
    """An attachment whose text waits."""
    return str((await attach(await user.thread(), await upload(b"hello"))).json()["id"])


async def test_text_is_kept(pending: str, ingester: Ingester, user: User, admin: Any) -> None:
    assert await ingester.ingest_next()
    row = await file_of(admin)
    assert (row["extracted_text"], row["is_cut"], row["ingestion_reason"]) == ("hello", False, None)
    assert not await ingester.ingest_next()


async def test_a_reason_is_kept_of_what_fails(
    user: User, upload: Upload, attach: Any, ingester: Ingester, admin: Any
) -> None:
    await attach(await user.thread(), await upload(encrypted_pdf()))
    assert await ingester.ingest_next()
    row = await file_of(admin)
    assert (row["ingestion_status"], row["ingestion_reason"]) == ("failed", "encrypted")
    assert row["ingestion_attempt"] == 1
    await be_due(admin)
    assert not await ingester.ingest_next()


async def test_a_worker_that_is_lost_leaves_the_file_to_another(
    pending: str, ingester: Ingester, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def read_slowly(*_: Any) -> Reading:
        begun.set()
        await over.wait()
        return Reading("of the one that was lost", is_cut=False)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_text", read_slowly)
        lost = asyncio.create_task(ingester.ingest_next())
        await begun.wait()
    assert not await ingester.ingest_next(), "its lease holds"
    await be_due(admin)
    assert await ingester.ingest_next()
    over.set()
    assert await lost
    row = await file_of(admin)
    assert (row["extracted_text"], row["ingestion_attempt"]) == ("hello", 2)


async def test_a_poison_file_fails_after_three_tries(
    pending: str, ingester: Ingester, user: User, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_killed(*_: Any) -> Reading:
        raise ReadingFailed("killed", is_final=False)

    monkeypatch.setattr(module, "read_text", be_killed)
    for attempt in range(1, MAX_TRIES + 1):
        row = await file_of(admin)
        assert (row["ingestion_status"], row["ingestion_attempt"]) == ("pending", attempt - 1)
        await be_due(admin)
        assert await ingester.ingest_next()
    row = await file_of(admin)
    assert (row["ingestion_status"], row["ingestion_reason"]) == ("failed", "killed")
    assert (await ingested(user, pending))["ingestionStatus"] == "failed"


async def test_a_file_that_takes_its_workers_along_fails_as_well(
    pending: str, ingester: Ingester, admin: Any, app: Starlette
) -> None:
    for _ in range(MAX_TRIES):  # claimed, and never heard of again
        await app.state.database.fetch_one("claim_ingestion", 60.0, MAX_TRIES)
        await be_due(admin)
    assert await ingester.ingest_next()
    row = await file_of(admin)
    assert (row["ingestion_status"], row["ingestion_reason"]) == ("failed", "poison")


async def test_a_store_that_is_away_is_no_fault_of_the_file(
    pending: str, ingester: Ingester, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_away(*_: Any) -> Any:
        raise ObjectStoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Ingester, "_download", be_away)
        for _ in range(MAX_TRIES + 1):
            await be_due(admin)
            assert await ingester.ingest_next()
    assert not await ingester.ingest_next(), "not at once"
    await be_due(admin)
    assert await ingester.ingest_next()
    assert (await file_of(admin))["extracted_text"] == "hello"


@pytest.mark.parametrize("what", ["disk", "full disk", "processes"])
async def test_a_workers_own_trouble_is_no_fault_of_the_file(
    pending: str, ingester: Ingester, admin: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def fork(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def make_file(**_: Any) -> Any:
        if what == "full disk":
            return Path("/dev/full").open("w+b")
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    with monkeypatch.context() as patch:
        if what == "processes":
            patch.setattr(asyncio, "create_subprocess_exec", fork)
        else:
            patch.setattr(tempfile, "TemporaryFile", make_file)
        for _ in range(MAX_TRIES + 2):
            await be_due(admin)
            assert await ingester.ingest_next()
            row = await file_of(admin)
            assert (row["ingestion_status"], row["ingestion_attempt"]) == ("pending", 0)
            assert row["ingestion_reason"] == "out_of_service"
    assert not await ingester.ingest_next(), "not at once"
    await be_due(admin)
    assert await ingester.ingest_next()
    assert (await file_of(admin))["extracted_text"] == "hello"


@pytest.mark.parametrize("how", ["anew", "again", "in a message"])
@pytest.mark.parametrize("reason", ["killed", "missing", "poison", "timeout"])
async def test_what_was_given_up_is_tried_again_when_it_is_attached_anew(
    user: User, upload: Upload, attach: Any, ingester: Ingester, admin: Any, reason: str, how: str
) -> None:
    thread, artifact = await user.thread(), await upload(b"hello")
    await attach(thread, artifact)
    await give_up(admin, reason)
    if how == "in a message":
        await submit_file(user, await user.thread())
    else:
        made = await attach(thread if how == "again" else await user.thread(), artifact)
        assert made.json()["ingestionStatus"] == "pending"
    row = await file_of(admin)
    assert (row["ingestion_status"], row["ingestion_attempt"]) == ("pending", 0)
    assert row["ingestion_reason"] is None
    assert await ingester.ingest_next()
    assert (await file_of(admin))["extracted_text"] == "hello"


@pytest.mark.parametrize("reason", ["broken", "cpu", "encrypted", "memory", "too_large"])
async def test_what_is_wrong_with_a_file_stays_wrong(
    user: User, upload: Upload, attach: Any, ingester: Ingester, admin: Any, reason: str
) -> None:
    artifact = await upload(b"hello")
    await attach(await user.thread(), artifact)
    await give_up(admin, reason)
    before = await file_of(admin)
    await attach(await user.thread(), artifact)
    await submit_file(user, await user.thread())
    after = await file_of(admin)
    assert {**after, "stored_at": None} == {**before, "stored_at": None}
    assert not await ingester.ingest_next()


async def give_up(admin: Any, reason: str) -> None:
    await admin.execute(
        "update stored_files set ingestion_status = 'failed', ingestion_due_at = null,"
        " ingestion_attempt = 4, ingestion_reason = $1",
        reason,
    )


async def submit_file(user: User, thread: str) -> None:
    """A message with the file `hello`."""
    part = {"type": "file", "url": "data:text/plain,hello", "filename": "a.txt"}
    said = {"messages": [{"role": "user", "parts": [part]}], "modelId": "scripted"}
    answered = await user.post(f"/threads/{thread}/turns", json=said)
    assert answered.status_code == 202, answered.text


async def test_a_name_that_tells_more_lets_a_file_be_read(
    user: User, upload: Upload, ingester: Ingester, admin: Any
) -> None:
    """The same bytes: nothing to read under one name, a text under another."""
    await upload(b"hello")
    await admin.execute("update stored_files set reader = null")
    await submit_file(user, await user.thread())
    assert await ingester.ingest_next()
    assert (await file_of(admin))["extracted_text"] == "hello"


async def test_an_object_that_is_gone_is_told(
    pending: str, ingester: Ingester, admin: Any, objects: Any
) -> None:
    objects()[0].unlink()
    assert await ingester.ingest_next()
    assert (await file_of(admin))["ingestion_reason"] == "missing"


async def test_a_worker_that_leaves_gives_its_file_back(
    pending: str, ingester: Ingester, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def never(*_: Any) -> Reading:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(module, "read_text", never)
    task = asyncio.create_task(ingester.run())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    row = await file_of(admin)
    assert (row["ingestion_status"], row["ingestion_attempt"]) == ("pending", 0)


async def test_a_flood_of_one_tenant_delays_another_little(
    user: User, add_user: AddUser, upload: Upload, attach: Any, app: Starlette, admin: Any
) -> None:
    thread = await user.thread()
    for number in range(30):
        await attach(thread, await upload(b"%d" % number))
    other = await add_user()
    artifact = await upload(b"mine", by=other)
    path = f"/threads/{await other.thread()}/attachments?artifact_id={artifact['id']}"
    assert (await other.post(path)).status_code == 201
    order = []
    while row := await app.state.database.fetch_one("claim_ingestion", 60.0, MAX_TRIES):
        order.append(row["tenant_id"])
    assert len(order) == 31
    assert order.index(other.tenant_id) < 20, "drawn by lot: once in a million it is not"
    assert len(set(order)) == 2


async def test_two_workers_never_read_the_same(
    user: User, upload: Upload, attach: Any, app: Starlette
) -> None:
    thread = await user.thread()
    for number in range(12):
        await attach(thread, await upload(b"%d" % number))
    claimed: list[bytes] = []

    async def claim_all() -> None:
        misses = 0
        while misses < 20:
            row = await app.state.database.fetch_one("claim_ingestion", 60.0, MAX_TRIES)
            misses = 0 if row else misses + 1
            claimed.extend([row["sha256"]] if row else [])

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(claim_all())
    assert (len(claimed), len(set(claimed))) == (12, 12)


# -- in a worker


async def test_a_ring_is_heard(
    user: User, upload: Upload, attach: Any, start_worker: StartWorker
) -> None:
    """Nobody looks by himself here."""
    await start_worker(ingestion_poll_s=3600.0)
    await asyncio.sleep(0)
    text = pdf([pdf_page("Hello")])
    made = (await attach(await user.thread(), await upload(text))).json()
    assert (await ingested(user, made["id"]))["ingestionStatus"] == "completed"


async def test_a_ring_that_was_lost_is_not_needed(
    user: User, upload: Upload, attach: Any, start_worker: StartWorker, redis: RedisConnection,
    app: Starlette,
) -> None:  # fmt: skip
    made = (await attach(await user.thread(), await upload(b"hello"))).json()
    await redis.call("FLUSHDB")
    await start_worker(ingestion_poll_s=0.1)
    assert (await ingested(user, made["id"]))["ingestionStatus"] == "completed"


async def test_turns_go_on_beside_it(
    user: User, upload: Upload, attach: Any, start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    begun = asyncio.Event()

    async def never(*_: Any) -> Reading:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(module, "read_text", never)
    await start_worker(ingestion_poll_s=0.1)
    for number in range(5):
        await attach(await user.thread(), await upload(b"%d" % number))
    await begun.wait()
    thread = await user.thread()
    answered = await user.post(
        f"/threads/{thread}/turns",
        json={"message": "x", "modelId": "scripted"},
        headers={"prefer": "wait=10"},
    )
    assert answered.json()["status"] == "completed"


async def test_the_job_is_as_arq_writes_it(
    app: Starlette, settings: Settings, redis: RedisConnection, redis_prefix: str
) -> None:
    keys = app.state.attachments._ring.__self__._queue
    pool = ArqRedis.from_url(settings.redis_url.get_secret_value())
    pool.job_serializer, pool.job_deserializer = serialize_job, deserialize_job
    pool.expires_extra_ms = 60_000
    await redis.call("PING")
    async with pool:
        job = await pool.enqueue_job(INGEST_FILES, _queue_name=f"{redis_prefix}:arq", _expires=60)
        assert job is not None
        theirs = orjson.loads(await redis.call("GET", f"arq:job:{job.job_id}"))
        await redis.call("DEL", f"arq:job:{job.job_id}", f"{redis_prefix}:arq")
    await app.state.redis.call("PING")
    bell: Doorbell = app.state.attachments._ring.__self__
    bell.ring()
    bell.ring()

    async def is_written() -> bool:
        return bool(await redis.call("EXISTS", f"arq:job:{bell._job_id}"))

    await wait_until(is_written, "the job is there")
    ours = orjson.loads(await redis.call("GET", f"arq:job:{bell._job_id}"))
    assert {**ours, "et": 0} == {**theirs, "et": 0}
    assert await redis.call("ZCARD", keys) == 1
    assert 0 < await redis.call("PTTL", f"arq:job:{bell._job_id}") <= 60_000
    await redis.call("DEL", f"arq:job:{bell._job_id}")


# -- collecting


async def test_objects_that_no_row_names_are_collected(
    app: Starlette, upload: Upload, objects: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(b"kept")
    (kept,) = objects()
    orphan, young = (kept.with_name(f"{'0' * 64}-{n * 16}") for n in "ab")
    # A folder may be shared with others, and with deployments that have other tenants.
    foreign = [kept.with_name("report.pdf"), kept.parent.parent / str(new_id()) / orphan.name]
    for path in (orphan, young, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for path in (kept, orphan, *foreign):
        os.utime(path, (1, 1))
    ctx = {"database": app.state.database, "objects": app.state.objects}
    assert await collect_objects(ctx) == 1
    assert sorted(objects()) == sorted([kept, young, *foreign])


async def test_what_a_lost_process_has_half_stored_is_collected(
    app: Starlette, user: User, objects: Any
) -> None:
    """Killed for real, in the middle of storing."""
    folder: Path = app.state.objects.folder
    key = object_key(user.tenant_id, bytes(32))
    program = (
        "import sys, obstore, obstore.store, os, signal\n"
        "def pieces():\n"
        "    for _ in range(3):\n"
        "        yield b'x' * 1048576\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = obstore.store.LocalStore(sys.argv[1])\n"
        "obstore.put(store, sys.argv[2], pieces(), chunk_size=1048576, max_concurrency=1)\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, folder, key)
    assert await process.wait() == -signal.SIGKILL
    (left,) = objects()
    assert left.name.endswith("#1")
    ctx = {"database": app.state.database, "objects": app.state.objects}
    assert await collect_objects(ctx) == 0, "somebody may still be storing it"
    os.utime(left, (1, 1))
    other = left.with_name("notes#1")
    other.write_bytes(b"none of ours")
    os.utime(other, (1, 1))
    assert await collect_objects(ctx) == 1
    assert objects() == [other]
