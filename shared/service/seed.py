"""`python -m shared.service.seed`: the development tenant, its user and keys. Idempotent."""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import orjson
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.accounts import create_api_key, create_user, set_password_in
from shared.service.agent_specs import default_agent
from shared.service.credentials import hash_secret
from shared.service.passwords import MAX_CHARS, MIN_CHARS, hash_password, is_right
from shared.service.projects import default_project
from shared.turn.model import CredentialKind, Principal

# The same in every deployment, so that seeding twice, or twice at once, finds itself.
DEV_TENANT_ID: Final = uuid.UUID("01900000-0000-7000-8000-000000000001")
DEV_KEY_NAME: Final = "development"
DEV_SLUG: Final = "development"
DEV_EMAIL: Final = "dev@localhost"


@dataclass(frozen=True, slots=True)
class Seeded:
    """What there is now."""

    tenant_id: UUID
    user_id: UUID
    project_id: UUID
    agent_id: UUID


class SeedSettings(BaseSettings):
    """What the seed needs of the environment."""

    model_config = SettingsConfigDict(env_prefix="TURNKEEP_", extra="ignore")

    database_url: SecretStr
    key_pepper: SecretStr = Field(min_length=16)
    dev_api_key: SecretStr = Field(min_length=8, max_length=512)
    dev_mechamental_token: SecretStr | None = Field(default=None, min_length=8, max_length=512)
    dev_kodey_secret_key: SecretStr | None = Field(default=None, min_length=8, max_length=512)
    dev_kodey_publishable_key: SecretStr | None = Field(default=None, min_length=8, max_length=512)
    dev_zylon_token: SecretStr | None = Field(default=None, min_length=8, max_length=512)
    dev_password: SecretStr | None = Field(default=None, min_length=MIN_CHARS, max_length=MAX_CHARS)

    def secrets(self) -> dict[CredentialKind, str]:
        """Those that are set, by what they are.

        Raises:
            ValueError: no client could send one of them.
        """
        given = {
            CredentialKind.API_KEY: self.dev_api_key,
            CredentialKind.MECHAMENTAL: self.dev_mechamental_token,
            CredentialKind.KODEY_SECRET: self.dev_kodey_secret_key,
            CredentialKind.KODEY_PUBLISHABLE: self.dev_kodey_publishable_key,
            CredentialKind.ZYLON: self.dev_zylon_token,
        }
        found = {kind: held.get_secret_value() for kind, held in given.items() if held is not None}
        for kind, secret in found.items():
            if not (secret.isascii() and secret.isprintable()) or " " in secret:
                name = "API_KEY" if kind is CredentialKind.API_KEY else kind.name
                raise ValueError(
                    f"TURNKEEP_DEV_{name}: only printable ASCII characters without spaces"
                )
        return found


async def seed(settings: SeedSettings) -> Seeded:
    """Makes tenant, user, keys, project and agent; a development key of another secret is revoked.

    Raises:
        ValueError: no client could send a secret, or it is another user's key.
    """
    pepper = settings.key_pepper.get_secret_value().encode()
    secrets = settings.secrets()

    async def work(transaction: Transaction) -> tuple[UUID, UUID]:
        # Of two seeds at once, the later one's key remains.
        await transaction.fetch_one("lock_tenant", DEV_TENANT_ID)
        await transaction.fetch_one("add_tenant", DEV_TENANT_ID, "Development", "development")
        user_id = await create_user(transaction, DEV_TENANT_ID, DEV_EMAIL, "Developer")
        for kind, secret in secrets.items():
            name = DEV_KEY_NAME if kind is CredentialKind.API_KEY else f"{DEV_KEY_NAME} {kind}"
            await create_api_key(
                transaction,
                tenant_id=DEV_TENANT_ID,
                user_id=user_id,
                name=name,
                pepper=pepper,
                secret=secret,
                kind=kind,
            )
            kept = hash_secret(pepper, secret)
            await transaction.fetch_many("revoke_other_keys", DEV_TENANT_ID, name, kept)
        if settings.dev_password is not None:
            await _set_password(transaction, user_id, settings.dev_password.get_secret_value())
        return user_id, await default_project(transaction, DEV_TENANT_ID, user_id)

    async with Database(settings.database_url.get_secret_value(), size=1) as database:
        user_id, project_id = await database.run_in_transaction(work)
        agent_id = await default_agent(database, Principal(DEV_TENANT_ID, user_id, user_id))
        return Seeded(DEV_TENANT_ID, user_id, project_id, agent_id)


async def _set_password(transaction: Transaction, user_id: UUID, password: str) -> None:
    """Sets it unless it is set: sessions live on from one start to the next."""
    rows = await transaction.fetch_many("find_sign_in", DEV_EMAIL, DEV_SLUG)
    if not any(row["id"] == user_id and is_right(row["password_hash"], password) for row in rows):
        await set_password_in(transaction, user_id, hash_password(password))


def main() -> None:
    """Prints a line of JSON: `{"tenantId", "userId", "projectId", "agentId", "email", …}`."""
    argparse.ArgumentParser(
        prog="python -m shared.service.seed",
        description="Makes the development tenant, user, API key (TURNKEEP_DEV_API_KEY) and,"
        " if TURNKEEP_DEV_PASSWORD is set, password.",
    ).parse_args()
    try:
        made = asyncio.run(seed(SeedSettings()))
    except ValidationError as error:
        names = ", ".join(
            f"TURNKEEP_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()
        )
        raise SystemExit(f"turnkeep: {names}") from None
    except (PostgresUnavailable, asyncpg.PostgresError, ValueError) as error:
        raise SystemExit(f"turnkeep: {error}") from None
    told = {"tenantId": str(made.tenant_id), "userId": str(made.user_id)}
    told |= {"projectId": str(made.project_id), "agentId": str(made.agent_id)}
    told |= {"email": DEV_EMAIL, "organization": DEV_SLUG}
    sys.stdout.buffer.write(orjson.dumps(told) + b"\n")


if __name__ == "__main__":
    main()
