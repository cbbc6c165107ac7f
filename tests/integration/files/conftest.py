"""Files over HTTP, in this process; workers where a test starts them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User, add_user, app

__all__ = ["add_user", "app", "attach", "objects", "upload", "user"]

ARTIFACTS = "http://test/api/v1/artifacts"


@pytest.fixture
async def user(add_user: AddUser) -> User:
    return await add_user()


@pytest.fixture
def objects(app: Starlette) -> Callable[[], list[Path]]:
    """The stored objects, wherever in the folder."""
    folder: Path = app.state.objects.folder
    return lambda: [path for path in folder.rglob("*") if path.is_file()]


Upload = Callable[..., Coroutine[Any, Any, dict[str, Any]]]


@pytest.fixture
def upload(user: User) -> Upload:
    """`await upload(b"…", "a.txt", by=user)`: the artifact."""

    async def upload(data: bytes, name: str = "a.txt", by: User = user) -> dict[str, Any]:
        sent = {"file": (name, data, "image/png")}
        answered = await by.post(f"{ARTIFACTS}/upload", files=sent)
        assert answered.status_code == 201, answered.text
        artifact: dict[str, Any] = answered.json()
        return artifact

    return upload


@pytest.fixture
def attach(user: User) -> Callable[..., Awaitable[httpx.Response]]:
    """`await attach(thread_id, artifact, messageId=…)`."""

    async def attach(thread_id: str, artifact: dict[str, Any], **body: Any) -> httpx.Response:
        return await user.post(
            f"/threads/{thread_id}/attachments?artifact_id={artifact['id']}", json=body
        )

    return attach


async def ingested(user: User, attachment_id: str, patience_s: float = 20.0) -> dict[str, Any]:
    """The attachment once its text has been read, or not."""

    async def is_over() -> dict[str, Any] | None:
        told: dict[str, Any] = (await user.get(f"/attachments/{attachment_id}")).json()
        return None if told["ingestionStatus"] in {"pending", "processing"} else told

    return dict(await wait_until(is_over, "the file was read", patience_s))
