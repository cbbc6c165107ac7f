"""Requests made from the document, fitting and unfitting: no defect, nothing undescribed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from api.mechamental.surface import SURFACE
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.integration.test_fuzz import LONG, Arena, fuzz, in_process, read_operations

OPERATION_OF: Final = read_operations(SURFACE.operations)
IDS: Final = {"workspace_id": "w", "app_id": "a", "namespace_id": "n", "thread_id": "t"}


class MmArena(Arena):
    """A token, and a thread with a message; half of the requests go there."""

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
                kind=CredentialKind.MECHAMENTAL,
            )
        self._credential = {"authorization": f"Bearer {secret}"}
        self._ids = {"org_id": str(tenant_id), **IDS}
        await self._settle()

    async def _settle(self) -> None:
        answered = await self._client.post(
            f"/v1/orgs/{self._ids['org_id']}/workspaces/w/apps/a/namespaces/n/threads/t/messages",
            json={**IDS, "role": "user", "content": "x"},
            headers=self._credential,
        )
        assert answered.status_code == 201, answered.text
        self._ids["message_id"] = answered.json()["message_id"]

    def send(self, case: Any) -> httpx.Response:
        if isinstance(case.body, dict) and not self.sent % 2:
            case.body.update({name: id_ for name, id_ in IDS.items() if name in case.body})
        return super().send(case)


def test_every_operation_can_be_read() -> None:
    assert len(OPERATION_OF) == len(SURFACE.operations)


@pytest.fixture
def arena(settings: Settings) -> Iterator[MmArena]:
    arena = MmArena(settings, in_process)
    arena.open()
    yield arena
    arena.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described(arena: MmArena, label: str) -> None:
    fuzz(arena, OPERATION_OF[label], 15)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described_at_length(arena: MmArena, label: str) -> None:
    fuzz(arena, OPERATION_OF[label], LONG, is_repeatable=False)
    print(f"fuzz: {label}: {arena.sent} requests, {dict(sorted(arena.statuses.items()))}")
