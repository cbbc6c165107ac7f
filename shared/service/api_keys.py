"""API keys: random secrets, stored as HMAC-SHA256 under the deployment's pepper, revocable.

A look-up is cached per process, 5 s when the key is good and 1 s when it is not, so a revocation is
seen everywhere within 5 s. Redis plays no part: nobody is locked out when it is away.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import asyncpg

from shared.errors import NotAuthenticated
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.turn.model import Principal

GOOD_FOR_S: Final = 5.0
BAD_FOR_S: Final = 1.0
CACHE_SIZE: Final = 10_000
SECRET_PREFIX: Final = "vai_sk_"  # noqa: S105 - what all secrets begin with
_SHOWN_CHARS: Final = 12
_BEARER: Final = b"Bearer "

K = TypeVar("K")
V = TypeVar("V")


class ApiKeys:
    """Authenticates secrets against Postgres, through bounded caches and one look-up at a time."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper
        # Apart, so that a flood of wrong keys pushes no good one out.
        self._good: _ShortCache[bytes, Principal] = _ShortCache(GOOD_FOR_S)
        self._bad: _ShortCache[bytes, None] = _ShortCache(BAD_FOR_S)
        self._valid: _ShortCache[UUID, None] = _ShortCache(BAD_FOR_S)
        self._look_ups: dict[bytes | UUID, asyncio.Task[Principal | None]] = {}

    async def authenticate(self, secret: str) -> Principal:
        """Who the secret stands for.

        Raises:
            NotAuthenticated: unknown, expired or revoked.
            PostgresUnavailable: nobody can tell.
        """
        digest = hash_secret(self._pepper, secret)
        if (known := self._good.get(digest)) is not None:
            return known.value
        principal = None
        if self._bad.get(digest) is None:
            principal = await self._once(digest, self._find, digest)
        if principal is None:
            raise NotAuthenticated("Not authenticated")
        return principal

    def find_known(self, authorization: bytes) -> Principal | None:
        """Who `Bearer …` stands for, if that was asked in the last seconds; None tells nothing."""
        if not authorization.startswith(_BEARER):
            return None
        digest = hmac.digest(self._pepper, authorization[len(_BEARER) :], "sha256")
        known = self._good.get(digest)
        return None if known is None else known.value

    async def require_valid(self, principal: Principal) -> None:
        """Asks again, at most once a second per key: has it been revoked meanwhile?

        Raises:
            NotAuthenticated: it has been, or has expired.
            PostgresUnavailable: nobody can tell.
        """
        if self._valid.get(principal.key_id) is not None:
            return
        if await self._once(principal.key_id, self._confirm, principal) is None:
            raise NotAuthenticated("The credential is no longer valid")

    async def find_valid(self, key_ids: set[UUID]) -> set[UUID]:
        """Those of the keys that may still be used, as Postgres has it now.

        Raises:
            PostgresUnavailable: nobody can tell.
        """
        rows = await self._database.fetch_many("list_valid_api_keys", list(key_ids))
        return {row["id"] for row in rows}

    def forget(self) -> None:
        """Empties the caches of this process."""
        for cache in (self._good, self._bad, self._valid):
            cache.clear()

    async def _once(
        self,
        key: bytes | UUID,
        look_up: Callable[[Any], Coroutine[Any, Any, Principal | None]],
        argument: bytes | Principal,
    ) -> Principal | None:
        task = self._look_ups.get(key)
        if task is None:
            task = self._look_ups[key] = asyncio.create_task(look_up(argument))
            task.add_done_callback(functools.partial(self._looked_up, key))
        return await asyncio.shield(task)

    def _looked_up(self, key: bytes | UUID, task: asyncio.Task[Principal | None]) -> None:
        del self._look_ups[key]
        if not task.cancelled():
            task.exception()  # read here: every caller may have gone

    async def _find(self, digest: bytes) -> Principal | None:
        asked_at = time.monotonic()  # a revocation after this moment may go unseen
        row = await self._database.fetch_one("find_api_key", digest)
        if row is None or not hmac.compare_digest(row["key_hash"], digest):
            self._bad.put(digest, None, asked_at)
            return None
        principal = Principal(row["tenant_id"], row["user_id"], row["id"])
        self._good.put(digest, principal, asked_at)
        return principal

    async def _confirm(self, principal: Principal) -> Principal | None:
        asked_at = time.monotonic()
        row = await self._database.for_tenant(principal).fetch_one(
            "is_api_key_valid", principal.key_id, principal.tenant_id
        )
        if row is None:
            return None
        self._valid.put(principal.key_id, None, asked_at)
        return principal


@dataclass(frozen=True, slots=True)
class _Known(Generic[V]):
    value: V
    until: float


class _ShortCache(Generic[K, V]):
    """Answers of the last seconds; when full, the one unused for longest goes."""

    def __init__(self, good_for_s: float) -> None:
        self._good_for_s = good_for_s
        self._entries: OrderedDict[K, _Known[V]] = OrderedDict()

    def get(self, key: K) -> _Known[V] | None:
        known = self._entries.get(key)
        if known is None:
            return None
        if known.until <= time.monotonic():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return known

    def put(self, key: K, value: V, asked_at: float) -> None:
        self._entries[key] = _Known(value, asked_at + self._good_for_s)
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()


def hash_secret(pepper: bytes, secret: str) -> bytes:
    """What is stored of a secret."""
    return hmac.digest(pepper, secret.encode(), "sha256")


def new_secret() -> str:
    """256 random bits that look like a key of ours."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


async def revoke_api_key(database: Database, key_id: UUID) -> bool:
    """Ends a key for good; every process refuses it within 5 s. False: there is no such key."""
    return await database.fetch_one("revoke_api_key", key_id) is not None


async def list_api_keys(database: Database, tenant_id: UUID | None) -> list[asyncpg.Record]:
    """What is known of keys, of one tenant or of all. No secret is among it."""
    return await database.fetch_many("list_api_keys", tenant_id)


async def find_user(database: Database, tenant_id: UUID, email: str) -> UUID | None:
    """The user with this address."""
    row = await database.fetch_one("find_user", tenant_id, email)
    return None if row is None else row["id"]


async def create_tenant(database: Database | Transaction, name: str) -> UUID:
    """Makes a tenant."""
    tenant_id = new_id()
    await database.fetch_one("add_tenant", tenant_id, name)
    return tenant_id


async def create_user(
    database: Database | Transaction, tenant_id: UUID, email: str, name: str
) -> UUID:
    """Makes a user, or finds the one with this address."""
    row = await database.fetch_one("add_user", new_id(), tenant_id, email, name)
    user_id: UUID = row["id"]  # type: ignore[index]  # an upsert always returns its row
    return user_id


async def create_api_key(
    database: Database | Transaction,
    *,
    tenant_id: UUID,
    user_id: UUID,
    name: str,
    pepper: bytes,
    secret: str | None = None,
) -> str:
    """Makes a key and returns its secret, which is stored nowhere.

    A secret given again for the same user is valid again.

    Raises:
        ValueError: the given secret is another user's.
    """
    secret = secret or new_secret()
    digest = hash_secret(pepper, secret)
    shown = secret[: min(_SHOWN_CHARS, len(secret) // 3)]
    row = await database.fetch_one("add_api_key", new_id(), tenant_id, user_id, digest, shown, name)
    if row is None:
        raise ValueError("this secret is the API key of another user")
    return secret
