"""`python -m deploy.admin`: makes tenants, users and API keys, lists keys, revokes them.

Works on the database of TURNKEEP_DATABASE_URL; a secret is printed once and stored nowhere.
"""

import argparse
import asyncio
import sys
from uuid import UUID

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database
from shared.service.api_keys import (
    create_api_key,
    create_tenant,
    create_user,
    find_user,
    list_api_keys,
    revoke_api_key,
)


class AdminSettings(BaseSettings):
    """What the commands need of the environment."""

    model_config = SettingsConfigDict(env_prefix="TURNKEEP_", extra="ignore")

    database_url: SecretStr
    key_pepper: SecretStr = Field(min_length=16)


async def run(asked: argparse.Namespace, settings: AdminSettings) -> int:
    pepper = settings.key_pepper.get_secret_value().encode()
    async with Database(settings.database_url.get_secret_value(), size=1) as database:
        match asked.command:
            case "create-tenant":
                tenant_id = await create_tenant(database, asked.name)
                user_id = await create_user(database, tenant_id, asked.email, asked.email)
                return await _print_key(database, tenant_id, user_id, "first key", pepper)
            case "create-key":
                known = await find_user(database, asked.tenant, asked.email)
                user_id = known or await create_user(
                    database, asked.tenant, asked.email, asked.email
                )
                return await _print_key(database, asked.tenant, user_id, asked.name, pepper)
            case "list-keys":
                return await _print_keys(database, asked.tenant)
            case _:
                return await _revoke(database, asked.key)


async def _print_key(
    database: Database, tenant_id: UUID, user_id: UUID, name: str, pepper: bytes
) -> int:
    secret = await create_api_key(
        database, tenant_id=tenant_id, user_id=user_id, name=name, pepper=pepper
    )
    print(f"tenant   {tenant_id}\nuser     {user_id}\nAPI key  {secret}  (shown this once)")
    return 0


async def _print_keys(database: Database, tenant_id: UUID | None) -> int:
    for row in await list_api_keys(database, tenant_id):
        state = "revoked" if row["revoked_at"] else "valid"
        made = f"{row['created_at']:%Y-%m-%d}"
        who = f"{row['tenant']} / {row['email']}"
        print(f"{row['id']}  {state:8} {made}  {row['prefix']}…  {who}  {row['name']}")
    return 0


async def _revoke(database: Database, key_id: UUID) -> int:
    if await revoke_api_key(database, key_id):
        print(f"revoked  {key_id}")
        return 0
    print(f"turnkeep: there is no key {key_id}", file=sys.stderr)
    return 1


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tenant = commands.add_parser("create-tenant", help="a tenant, its first user and a key")
    tenant.add_argument("name")
    tenant.add_argument("email", help="of the first user")
    key = commands.add_parser("create-key", help="another key, for a known or a new user")
    key.add_argument("tenant", type=UUID)
    key.add_argument("email")
    key.add_argument("--name", default="key")
    keys = commands.add_parser("list-keys", help="keys without their secrets")
    keys.add_argument("--tenant", type=UUID)
    revoke = commands.add_parser("revoke-key", help="ends a key for good")
    revoke.add_argument("key", type=UUID, help="its id, see list-keys")
    return parser.parse_args(arguments)


def main() -> None:
    asked = parse_arguments()
    try:
        code = asyncio.run(run(asked, AdminSettings()))
    except ValidationError as error:
        names = [
            f"TURNKEEP_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()
        ]
        raise SystemExit(f"turnkeep: {', '.join(names)}") from None
    except PostgresUnavailable as error:
        raise SystemExit(f"turnkeep: {error}") from None
    raise SystemExit(code)


if __name__ == "__main__":
    main()
