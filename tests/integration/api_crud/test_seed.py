"""The development user: made once, however often and however concurrently one asks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest
from pydantic import SecretStr

from shared.errors import NotAuthenticated
from shared.postgres.pool import Database
from shared.service.credentials import Credentials
from shared.service.passwords import is_right
from shared.service.seed import SeedSettings, seed
from shared.turn.model import CredentialKind

PEPPER = "a pepper for tests"


def wanted(database_url: str, secret: str) -> SeedSettings:
    return SeedSettings(
        database_url=SecretStr(database_url),
        key_pepper=SecretStr(PEPPER),
        dev_api_key=SecretStr(secret),
    )


async def is_valid(database: Database, secret: str) -> bool:
    try:
        await Credentials(database, PEPPER.encode()).authenticate(secret)
    except NotAuthenticated:
        return False
    return True


async def test_twice(database_url: str, database: Database, admin: Any) -> None:
    first = await seed(wanted(database_url, "first-secret"))
    assert await seed(wanted(database_url, "first-secret")) == first
    assert await admin.fetchval("select count(*) from tenants") == 1
    assert await admin.fetchval("select count(*) from users") == 1
    assert await admin.fetchval("select count(*) from api_keys") == 1
    principal = await Credentials(database, PEPPER.encode()).authenticate("first-secret")
    assert (principal.tenant_id, principal.user_id) == (first.tenant_id, first.user_id)
    for table, made in (("projects", first.project_id), ("agent_specs", first.agent_id)):
        assert await admin.fetchval(f"select array_agg(id) from {table}") == [made]  # noqa: S608


async def test_another_secret_revokes_the_old_one(database_url: str, database: Database) -> None:
    await seed(wanted(database_url, "first-secret"))
    await seed(wanted(database_url, "second-secret"))
    assert not await is_valid(database, "first-secret")
    assert await is_valid(database, "second-secret")
    await seed(wanted(database_url, "first-secret"))
    assert await is_valid(database, "first-secret")
    assert not await is_valid(database, "second-secret")


async def test_many_at_once(database_url: str, database: Database) -> None:
    names = [f"secret-{number}" for number in range(8)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(seed(wanted(database_url, name))) for name in names]
    assert len({task.result() for task in tasks}) == 1
    valid = [name for name in names if await is_valid(database, name)]
    assert len(valid) == 1


async def test_keys_of_other_names_stay(database_url: str, database: Database, admin: Any) -> None:
    await seed(wanted(database_url, "first-secret"))
    await admin.execute("update api_keys set name = 'mine'")
    await seed(wanted(database_url, "second-secret"))
    assert await is_valid(database, "first-secret")


@pytest.mark.parametrize("secret", ["with space", "schlüssel", "line\nbreak"])
async def test_a_secret_nobody_could_send(database_url: str, secret: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        await seed(wanted(database_url, secret))


async def run(**environment: str) -> tuple[int | None, str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TURNKEEP_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.service.seed",
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_command(database_url: str) -> None:
    code, output, errors = await run(
        TURNKEEP_DATABASE_URL=database_url,
        TURNKEEP_KEY_PEPPER=PEPPER,
        TURNKEEP_DEV_API_KEY="first-secret",
    )
    assert (code, errors) == (0, "")
    told = {"tenantId", "userId", "projectId", "agentId", "email", "organization"}
    assert set(json.loads(output)) == told


async def test_every_surface_gets_its_own_kind_of_credential(
    database_url: str, database: Database
) -> None:
    given = {
        "dev_mechamental_token": (CredentialKind.MECHAMENTAL, "mm_tok_one"),
        "dev_kodey_secret_key": (CredentialKind.KODEY_SECRET, "sk_live_one"),
        "dev_kodey_publishable_key": (CredentialKind.KODEY_PUBLISHABLE, "pk_live_one"),
        "dev_zylon_token": (CredentialKind.ZYLON, "zy_tok_one"),
    }
    settings = wanted(database_url, "first-secret").model_copy(
        update={name: SecretStr(secret) for name, (_, secret) in given.items()}
    )
    await seed(settings)
    await seed(settings)
    keys = Credentials(database, PEPPER.encode())
    for kind, secret in given.values():
        assert (await keys.authenticate(secret)).kind is kind
    await seed(settings.model_copy(update={"dev_zylon_token": SecretStr("zy_tok_two")}))
    assert not await is_valid(database, "zy_tok_one")
    assert await is_valid(database, "mm_tok_one")


async def test_a_password_is_set_once(database_url: str, admin: Any) -> None:
    """Setting it again would end the sessions of the last start."""
    stored = "select password_hash from users"
    first, second = (
        wanted(database_url, "first-secret").model_copy(update={"dev_password": SecretStr(text)})
        for text in ("password one", "password two")
    )
    hashes = []
    for settings in (first, first, second):
        await seed(settings)
        hashes.append(await admin.fetchval(stored))
    await seed(wanted(database_url, "first-secret"))
    assert hashes[0] == hashes[1] != hashes[2] == await admin.fetchval(stored)
    assert is_right(hashes[2], "password two")


@pytest.mark.parametrize(
    "change",
    [
        {"TURNKEEP_KEY_PEPPER": "short"},
        {"TURNKEEP_DEV_API_KEY": ""},
        {"TURNKEEP_DEV_API_KEY": "with a space"},
        {"TURNKEEP_DATABASE_URL": "postgresql://u:canary@127.0.0.1:1/x"},
        {"TURNKEEP_DATABASE_URL": "nonsense"},
    ],
)
async def test_the_command_fails_in_one_line(database_url: str, change: dict[str, str]) -> None:
    environment = {
        "TURNKEEP_DATABASE_URL": database_url,
        "TURNKEEP_KEY_PEPPER": PEPPER,
        "TURNKEEP_DEV_API_KEY": "first-secret",
    }
    code, output, errors = await run(**{**environment, **change})
    assert code not in (0, None)
    assert output == ""
    assert errors.startswith("turnkeep: ")
    assert errors.count("\n") == 1
    assert "canary" not in errors
