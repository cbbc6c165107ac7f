"""Turns that wait for texts ask little, and wait for each text once and not in every turn."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from shared.postgres.pool import Database
from tests.integration.api_turns.conftest import User
from tests.integration.files.conftest import Upload
from tests.integration.files.test_attachments import message_of
from worker.attachments import read_attached


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
