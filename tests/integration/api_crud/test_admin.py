"""The operator's commands: what they print works, what they revoke does not."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from deploy.admin import AdminSettings, parse_arguments, run
from shared.errors import NotAuthenticated
from shared.postgres.pool import Database
from shared.service.api_keys import ApiKeys

PEPPER = "pepper-of-the-admin-tests"


@pytest.fixture
def command(database_url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    settings = AdminSettings(database_url=SecretStr(database_url), key_pepper=SecretStr(PEPPER))

    async def call(*arguments: str) -> tuple[int, str]:
        code = await run(parse_arguments(list(arguments)), settings)
        return code, capsys.readouterr().out

    return call


async def test_a_made_key_works_until_it_is_revoked(command: Any, database: Database) -> None:
    _, told = await command("create-tenant", "Acme", "ann@acme.example")
    secret = re.findall(r"vai_sk_\S+", told)[0]
    principal = await ApiKeys(database, PEPPER.encode()).authenticate(secret)
    _, listed = await command("list-keys", "--tenant", str(principal.tenant_id))
    assert str(principal.key_id) in listed
    assert secret not in listed
    code, _ = await command("revoke-key", str(principal.key_id))
    assert code == 0
    with pytest.raises(NotAuthenticated):
        await ApiKeys(database, PEPPER.encode()).authenticate(secret)
    assert "revoked" in (await command("list-keys"))[1]


async def test_another_key_is_for_the_same_user(command: Any, database: Database) -> None:
    _, told = await command("create-tenant", "Acme", "ann@acme.example")
    tenant = re.findall(r"tenant +(\S+)", told)[0]
    user = UUID(re.findall(r"user +(\S+)", told)[0])
    _, again = await command("create-key", tenant, "ann@acme.example")
    secret = re.findall(r"vai_sk_\S+", again)[0]
    assert (await ApiKeys(database, PEPPER.encode()).authenticate(secret)).user_id == user


async def test_revoking_an_unknown_key_fails(command: Any) -> None:
    code, _ = await command("revoke-key", "01900000-0000-7000-8000-00000000dead")
    assert code == 1
