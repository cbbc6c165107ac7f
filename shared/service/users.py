"""What a user may see and change of themselves: name, preferences, keys and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final
from uuid import UUID
from zoneinfo import available_timezones

import asyncpg

from shared.errors import Forbidden, InvalidCursor, NotAuthenticated, NotFound, TooManyTokens
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.changes import UNCHANGED, as_flagged
from shared.service.credentials import (
    TOKEN_PREFIX,
    Credentials,
    hash_secret,
    new_secret,
    shown_of,
)
from shared.service.page_cursor import decode_cursor, encode_cursor
from shared.settings import Settings
from shared.turn.model import CredentialKind, Principal

MAX_TOKENS: Final = 100
MAX_TOKEN_DAYS: Final = 365


@cache
def time_zones() -> frozenset[str]:
    """Names of the IANA database that mean the same everywhere."""
    return frozenset(available_timezones() - {"localtime", "Factory", "posixrules"})


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that has just been made. `secret` is stored nowhere."""

    secret: str
    row: asyncpg.Record


class UserService:
    """The caller's own account. Rows come as records: the surface names their fields."""

    def __init__(self, database: Database, credentials: Credentials, settings: Settings) -> None:
        self._database = database
        self._credentials = credentials
        self._pepper = settings.key_pepper.get_secret_value().encode()

    async def get(self, principal: Principal) -> asyncpg.Record:
        """The user, their organization, and the kind of the credential (`token_type`).

        Raises:
            NotAuthenticated: the user has disappeared meanwhile.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_me", principal.tenant_id, principal.user_id, principal.key_id
        )
        if row is None:
            raise NotAuthenticated("Not authenticated")
        return row

    async def is_organization(self, principal: Principal, name: str) -> bool:
        """Whether the user's organization has this id or short name.

        Raises:
            NotAuthenticated: the user has disappeared meanwhile.
        """
        if name.lower() == str(principal.tenant_id):
            return True
        slug: str = (await self.get(principal))["organization_slug"]
        return slug == name

    async def update(
        self,
        principal: Principal,
        *,
        name: object = UNCHANGED,
        timezone: object = UNCHANGED,
        locale: object = UNCHANGED,
    ) -> asyncpg.Record:
        """Changes what is given; None clears time zone and locale."""
        changes = as_flagged(name, timezone, locale)
        row = await self._database.for_tenant(principal).fetch_one(
            "update_user", principal.tenant_id, principal.user_id, *changes
        )
        if row is None:
            raise NotAuthenticated("Not authenticated")
        return row

    async def require_maker(self, principal: Principal) -> UUID | None:
        """Whether this credential may make tokens; the key they end with, None for a session.

        Raises:
            Forbidden: they would outlive it.
        """
        kind = (await self.get(principal))["token_type"]
        if kind not in (CredentialKind.SESSION, CredentialKind.API_KEY):
            raise Forbidden("Only a session or an API key can make an access token")
        return principal.key_id if kind == CredentialKind.API_KEY else None

    async def create_token(
        self, principal: Principal, name: str, days: int, parent_id: UUID | None
    ) -> MadeToken:
        """A personal token of the caller, for so many days or until `parent_id` ends.

        Raises:
            TooManyTokens: there are as many as there may be.
        """
        secret = new_secret(TOKEN_PREFIX)
        row = await self._database.for_tenant(principal).fetch_one(
            "add_access_token",
            new_id(),
            principal.tenant_id,
            principal.user_id,
            hash_secret(self._pepper, secret),
            shown_of(secret),
            name,
            days,
            MAX_TOKENS,
            parent_id,
        )
        if row is None:
            raise TooManyTokens(MAX_TOKENS)
        return MadeToken(secret, row)

    async def list_tokens(
        self, principal: Principal, *, limit: int, cursor: str | None
    ) -> tuple[list[asyncpg.Record], str | None]:
        """A page of the caller's keys and tokens, newest first, and the cursor of the next one."""
        before = None if cursor is None else _decode_id(cursor)
        rows = await self._database.for_tenant(principal).fetch_many(
            "list_access_tokens", principal.tenant_id, principal.user_id, before, limit + 1
        )
        page = rows[:limit]
        return page, encode_cursor([str(page[-1]["id"])]) if len(rows) > limit else None

    async def revoke_token(self, principal: Principal, token_id: UUID) -> None:
        """Ends a key or token: here at once, in other processes within 5 s.

        Raises:
            NotFound: unknown, or somebody else's.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "revoke_access_token", token_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise NotFound("Access token not found")
        self._credentials.forget({token_id})


def _decode_id(cursor: str) -> UUID:
    (text,) = decode_cursor(cursor, (str,))
    try:
        return UUID(text)
    except ValueError:
        raise InvalidCursor from None
