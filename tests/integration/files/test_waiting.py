"""What turns ask Postgres for texts: little while they wait, and for tools one text at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from shared.postgres.pool import Database
from shared.turn.attached import AttachedPart
from tests.integration.api_turns.conftest import User
from tests.integration.files.conftest import Upload
from tests.integration.files.test_attachments import message_of
from worker.attachments.reader import TEXTS_AT_ONCE, AttachmentReader
from worker.attachments.shown import read_attached


class Watched:
    """The database; counts what is asked of it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked: Counter[str] = Counter()

    def for_tenant(self, owner: Any) -> Any:
        statements = self._database.for_tenant(owner)

        def watch(method: Any) -> Any:
            def fetch(name: str, *args: Any) -> Any:
                self.asked[name] += 1
                return method(name, *args)

            return fetch

        return SimpleNamespace(
            fetch_one=watch(statements.fetch_one), fetch_many=watch(statements.fetch_many)
        )


@pytest.fixture
def watched(app: Starlette) -> Any:
    return Watched(app.state.database)


async def turn_of(admin: Any, thread: str, message: str | None = None) -> Any:
    row = await admin.fetchrow("select * from threads where id = $1", thread)
    return SimpleNamespace(
        tenant_id=row["tenant_id"],
        user_id=row["user_id"],
        thread_id=row["id"],
        input_message_id=message and UUID(message),
    )


async def has_read(admin: Any, text: str) -> None:
    await admin.execute(
        "update stored_files set ingestion_status = 'completed', ingestion_due_at = null,"
        " extracted_text = $1 where ingestion_status = 'pending'",
        text,
    )


async def test_who_waits_asks_for_no_text(
    user: User, upload: Upload, attach: Any, admin: Any, watched: Any
) -> None:
    thread = await user.thread()
    await attach(thread, await upload(b"read before"))
    await has_read(admin, "read before")
    await attach(thread, await upload(b"slow"))
    turn = await turn_of(admin, thread)
    wakes: list[None] = []
    waiting = asyncio.create_task(
        read_attached(watched, turn, 1000, wait_s=8, on_waiting=lambda: wakes.append(None))
    )
    await asyncio.sleep(1.5)
    assert not waiting.done()
    assert watched.asked["list_attached_texts"] == 0
    await has_read(admin, "read now")
    assert [one.text for one in await waiting] == ["read before", "read now"]
    assert watched.asked["list_attached_texts"] == 1
    assert 2 <= watched.asked["find_awaited_text"] <= 7, "less and less often"
    assert len(wakes) == 1


async def test_a_text_of_the_thread_is_waited_for_once(
    user: User, upload: Upload, attach: Any, admin: Any, watched: Any
) -> None:
    thread = await user.thread()
    await attach(thread, await upload(b"never read"))
    await admin.execute("update attachments set created_at = now() - interval '1 minute'")
    # A store that is away makes workers try again and again.
    await admin.execute("update stored_files set ingestion_changed_at = now()")
    turn = await turn_of(admin, thread)
    began = time.monotonic()
    (shown,) = await read_attached(watched, turn, 1000, wait_s=8)
    assert time.monotonic() - began < 4, "its time was over before this turn"
    assert shown.text == ""
    assert watched.asked == {"find_awaited_text": 1, "list_attached_texts": 1}


async def test_a_text_of_the_turns_own_message_is_waited_for_however_old(
    user: User, upload: Upload, attach: Any, admin: Any, watched: Any
) -> None:
    """It may have waited for a worker as long as its turn has."""
    thread = await user.thread()
    message = await message_of(user, thread)
    await attach(thread, await upload(b"slow"), messageId=message)
    await admin.execute("update attachments set created_at = now() - interval '1 minute'")
    turn = await turn_of(admin, thread, message)
    waiting = asyncio.create_task(read_attached(watched, turn, 1000, wait_s=8))
    await asyncio.sleep(0.7)
    assert not waiting.done()
    await has_read(admin, "read now")
    assert [one.text for one in await waiting] == ["read now"]


async def test_a_wait_ends(
    user: User, upload: Upload, attach: Any, admin: Any, watched: Any
) -> None:
    thread = await user.thread()
    message = await message_of(user, thread)
    await attach(thread, await upload(b"slow"), messageId=message)
    turn = await turn_of(admin, thread, message)
    began = time.monotonic()
    (shown,) = await read_attached(watched, turn, 1000, wait_s=0.5)
    assert time.monotonic() - began >= 0.5
    assert shown.text == ""


# -- tools


async def test_tools_read_parts_of_texts_that_the_turn_may_see(
    user: User, upload: Upload, attach: Any, admin: Any, app: Starlette
) -> None:
    thread = await user.thread()
    message = await message_of(user, thread)
    plain = (await attach(thread, await upload(b"p", "same.txt"))).json()
    scoped = (await attach(thread, await upload(b"s", "same.txt"), messageId=message)).json()
    await has_read(admin, "äöü" * 100)
    seats = asyncio.Semaphore(TEXTS_AT_ONCE)
    database = app.state.database
    within = AttachmentReader(database, seats, await turn_of(admin, thread, message))
    later = AttachmentReader(database, seats, await turn_of(admin, thread))
    elsewhere = AttachmentReader(database, seats, await turn_of(admin, await user.thread()))
    assert [str(one.attachment_id) for one in await within.list_names()] == [
        scoped["id"], plain["id"],
    ]  # fmt: skip
    assert [one.size_bytes for one in await later.list_names()] == [600]
    for reader, found in ((within, scoped), (later, plain)):
        for name in ("same.txt", found["id"]):
            one = await reader.find(name)
            assert one is not None
            assert str(one.attachment_id) == found["id"]
    part = await later.read(UUID(plain["id"]), 298, 8000)
    assert part is not None
    assert (part.text, part.total_chars, part.is_cut) == ("öü", 300, False)
    assert await within.scan(UUID(scoped["id"]), len) == 300
    assert await within.read(UUID(plain["id"]), 10**30, 8000) == AttachedPart("", 300, False)
    for reader, hidden in ((later, scoped), (elsewhere, plain)):
        assert await reader.find(hidden["id"]) is None
        assert await reader.read(UUID(hidden["id"]), 0, 9) is None
        assert await reader.scan(UUID(hidden["id"]), len) is None


async def test_a_worker_has_few_texts_in_hand_however_many_are_searched(
    user: User, upload: Upload, attach: Any, admin: Any, app: Starlette
) -> None:
    thread = await user.thread()
    made = (await attach(thread, await upload(b"t"))).json()
    await has_read(admin, "text")
    seats = asyncio.Semaphore(TEXTS_AT_ONCE)
    turn = await turn_of(admin, thread)
    lock, full = threading.Lock(), threading.Event()
    in_hand = most = 0

    def scan(text: str) -> None:
        nonlocal in_hand, most
        with lock:
            in_hand += 1
            most = max(most, in_hand)
            if in_hand == TEXTS_AT_ONCE:
                full.set()
        full.wait(5)
        time.sleep(0.05)  # room for one too many
        with lock:
            in_hand -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            reader = AttachmentReader(app.state.database, seats, turn)
            group.create_task(reader.scan(UUID(made["id"]), scan))
    assert most == TEXTS_AT_ONCE
