"""Requests made from the document, fitting and unfitting, to every operation of the surface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from api.kodey.surface import SURFACE
from shared.postgres.pool import Database
from shared.service.accounts import create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.integration.kodey_surface.conftest import new_secret
from tests.integration.test_fuzz import LONG, Arena, fuzz, in_process, read_operations

OPERATION_OF: Final = read_operations(SURFACE.operations)


class Team(Arena):
    """The application, with a secret key, a chat and an agent."""

    async def _open(self) -> None:
        self._client = await self._open_client(self._settings, self._stack)
        async with Database(self._settings.database_url.get_secret_value(), size=1) as database:
            tenant_id = await create_tenant(database, "Test")
            user_id = await create_user(database, tenant_id, "u@example.org", "User")
            kind = CredentialKind.KODEY_SECRET
            secret = await new_secret(database, self._settings, tenant_id, user_id, kind)
        self._credential = {"x-api-key": secret}
        await self._settle()

    async def _settle(self) -> None:
        await self._make("agent_id", "/agent", {"name": "A"})
        await self._make("chat_id", "/chat", {"agentId": "default"})

    def send(self, case: Any) -> httpx.Response:
        if isinstance(case.body, dict) and "agentId" in case.body and not self.sent % 2:
            case.body["agentId"] = "default"
        return super().send(case)


@pytest.fixture
def team(settings: Settings) -> Iterator[Team]:
    quick = settings.model_copy(
        update={"kodey_wait_s": 0.02, "max_queued_per_key": 0, "kodey_secret_per_minute": 0}
    )
    team = Team(quick, in_process)
    team.open()
    yield team
    team.close()


def test_every_operation_can_be_read() -> None:
    assert len(OPERATION_OF) == len(SURFACE.operations)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described(team: Team, label: str) -> None:
    fuzz(team, OPERATION_OF[label], 15)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described_at_length(team: Team, label: str) -> None:
    fuzz(team, OPERATION_OF[label], LONG, is_repeatable=False)
    print(f"fuzz: {label}: {team.sent} requests, {dict(sorted(team.statuses.items()))}")
