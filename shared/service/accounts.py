"""Tenants, users, keys and limits as an operator makes and sees them. Rows come as records."""

from __future__ import annotations

import re
from uuid import UUID

import asyncpg

from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.credentials import (
    PREFIX_OF,
    as_tenant_id,
    hash_secret,
    new_secret,
    shown_of,
)
from shared.turn.model import CredentialKind, Reach


async def create_tenant(database: Database | Transaction, name: str) -> UUID:
    """Makes a tenant; its short name is made of the name."""
    tenant_id = new_id()
    await database.fetch_one("add_tenant", tenant_id, name, short_name(name))
    return tenant_id


def short_name(name: str) -> str:
    """Lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")


async def find_tenant(database: Database, name: str) -> asyncpg.Record | None:
    """The tenant of this short name or id."""
    return await database.fetch_one("find_tenant", name, as_tenant_id(name))


async def list_tenants(database: Database) -> list[asyncpg.Record]:
    """All tenants, newest first."""
    return await database.fetch_many("list_tenants")


async def set_tenant_disabled(database: Database, tenant_id: UUID, is_out: bool) -> None:
    """Keeps a tenant out, or lets it in; every process notices within 5 s."""
    await database.fetch_one("set_tenant_disabled", tenant_id, is_out)


async def create_user(
    database: Database | Transaction, tenant_id: UUID, email: str, name: str
) -> UUID:
    """Makes a user, or finds the one with this address."""
    row = await database.fetch_one("add_user", new_id(), tenant_id, email, name)
    user_id: UUID = row["id"]  # type: ignore[index]  # an upsert always returns its row
    return user_id


async def find_user(database: Database, tenant_id: UUID, email: str) -> UUID | None:
    """The user with this address, in whatever case it is written."""
    row = await database.fetch_one("find_user", tenant_id, email)
    return None if row is None else row["id"]


async def list_users(database: Database, tenant_id: UUID) -> list[asyncpg.Record]:
    """A tenant's users, newest first."""
    return await database.fetch_many("list_users", tenant_id)


async def set_user_disabled(database: Database, user_id: UUID, is_out: bool) -> None:
    """Keeps a user out, or lets them in; every process notices within 5 s."""
    await database.fetch_one("set_user_disabled", user_id, is_out)


async def set_admin(database: Database, user_id: UUID, is_admin: bool) -> None:
    """Lets a user change what runs for all users of the tenant, or no longer."""
    await database.fetch_one("set_admin", user_id, is_admin)


async def set_subject(database: Database, user_id: UUID, subject: str) -> None:
    """Says whom the identity provider means by `subject`, in the user's tenant."""
    await database.fetch_one("set_subject", user_id, subject)


async def set_password(database: Database, user_id: UUID, hashed: str) -> int:
    """Sets a password by its hash and ends all sessions; how many those were."""
    return await database.run_in_transaction(lambda t: set_password_in(t, user_id, hashed))


async def set_password_in(transaction: Transaction, user_id: UUID, hashed: str) -> int:
    """`set_password` as a part of more.

    One of the sessions may be why it is changed: so also one that begins at this moment ends.
    """
    await transaction.fetch_one("set_password", user_id, hashed)
    row = await transaction.fetch_one("end_sessions", user_id)
    return 0 if row is None else int(row["ended"])


async def create_api_key(
    database: Database | Transaction,
    *,
    tenant_id: UUID,
    user_id: UUID,
    name: str,
    pepper: bytes,
    secret: str | None = None,
    kind: CredentialKind = CredentialKind.API_KEY,
    reach: Reach | None = None,
) -> str:
    """Makes a key and returns its secret, which is stored nowhere.

    A secret given again for the same user is valid again.

    Raises:
        ValueError: the given secret is another user's, or does not begin as its kind does.
    """
    secret = secret or new_secret(PREFIX_OF[kind])
    if kind is not CredentialKind.API_KEY and not secret.startswith(PREFIX_OF[kind]):
        raise ValueError(f"a secret of this kind begins with {PREFIX_OF[kind]}")
    digest = hash_secret(pepper, secret)
    reach = reach or Reach()
    row = await database.fetch_one(
        "add_api_key",
        new_id(),
        tenant_id,
        user_id,
        digest,
        shown_of(secret),
        name,
        kind,
        *(
            None if names is None else sorted(names)
            for names in (reach.workspaces, reach.namespaces, reach.permissions)
        ),
    )
    if row is None:
        raise ValueError("this secret is the API key of another user")
    return secret


async def list_api_keys(database: Database, tenant_id: UUID | None) -> list[asyncpg.Record]:
    """Keys and tokens, of one tenant or of all. No secret is among it."""
    return await database.fetch_many("list_api_keys", tenant_id)


async def revoke_api_key(database: Database, key_id: UUID) -> bool:
    """Ends a credential for good; every process refuses it within 5 s. False: there is none."""
    return await database.fetch_one("revoke_api_key", key_id) is not None


async def set_limit(database: Database, tenant_id: UUID, key: str, most: int) -> None:
    """Lets so many turns of a concurrency key run at once; holds for turns accepted from now on."""
    await database.fetch_one("set_limit", tenant_id, key, most)


async def list_limits(database: Database, tenant_id: UUID) -> list[asyncpg.Record]:
    """A tenant's limits."""
    return await database.fetch_many("list_limits", tenant_id)


async def remove_limit(database: Database, tenant_id: UUID, key: str) -> bool:
    """Back to one turn at once. False: there was no limit."""
    return await database.fetch_one("remove_limit", tenant_id, key) is not None
