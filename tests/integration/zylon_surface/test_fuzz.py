"""Requests made from the document, fitting and unfitting: no defect, nothing undescribed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from api.zylon.surface import SURFACE
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.integration.test_fuzz import LONG, Arena, fuzz, in_process, read_operations
from tests.integration.zylon_surface.conftest import APP, user_says

OPERATION_OF: Final = read_operations(SURFACE.operations)


class Office(Arena):
    """A token, a project with a thread and an artifact, and an interaction that waits."""

    async def _open(self) -> None:
        self._client = await self._open_client(self._settings, self._stack)
        async with Database(self._settings.database_url.get_secret_value(), size=1) as database:
            tenant_id = await create_tenant(database, "Test")
            secret = await create_api_key(
                database,
                tenant_id=tenant_id,
                user_id=await create_user(database, tenant_id, "u@example.org", "User"),
                name="test",
                pepper=self._settings.key_pepper.get_secret_value().encode(),
                kind=CredentialKind.ZYLON,
            )
        self._credential = {"authorization": f"Bearer {secret}"}
        await self._settle()

    async def _settle(self) -> None:
        named = {"name": "N", "visibility": "Public"}
        project = await self._make("project_id", f"{APP}/project", named)
        thread = await self._make("thread_id", f"{APP}/project/{project}/thread", named)
        body = {"pgpt": {"messages": [user_says("x")], "stream": True}}
        await self._make("interaction_id", f"{APP}/thread/{thread}/interaction", body)
        if "artifact_id" not in self._ids:
            uploaded = await self._client.post(
                f"{APP}/project/{project}/artifact",
                data={"type": "Document", "name": "x", "props": "{}"},
                files={"fileData": ("x.txt", b"x", "text/plain")},
                headers=self._credential,
            )
            assert uploaded.status_code == 201, uploaded.text
            self._ids["artifact_id"] = uploaded.json()["id"]

    def send(self, case: Any) -> httpx.Response:
        if not self.sent % 2:
            if case.headers:
                case.headers.pop("X-Org", None)
            body = case.body if isinstance(case.body, dict) else {}
            good = {"agent": "Default", "artifact_ids": [], "thread_id": self._ids["thread_id"]}
            body.update({name: value for name, value in good.items() if name in body})
            for asked in (body, body.get("pgpt")):
                if isinstance(asked, dict) and "messages" in asked:
                    asked["messages"] = [user_says("x")]
        return super().send(case)


@pytest.fixture
def office(settings: Settings) -> Iterator[Office]:
    quick = settings.model_copy(
        update={
            "stream_max_age_s": 0.05,
            "keep_alive_s": 0.04,
            "max_queued_per_key": 0,
            "sync_wait_s": 0.05,
        }
    )
    office = Office(quick, in_process)
    office.open()
    yield office
    office.close()


def test_every_operation_can_be_read() -> None:
    assert len(OPERATION_OF) == len(SURFACE.operations)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described(office: Office, label: str) -> None:
    fuzz(office, OPERATION_OF[label], 15)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described_at_length(office: Office, label: str) -> None:
    fuzz(office, OPERATION_OF[label], LONG, is_repeatable=False)
    print(f"fuzz: {label}: {office.sent} requests, {dict(sorted(office.statuses.items()))}")
