"""Signing in with a password: a session for whoever knows it, and the same refusal for all others.

An address that nobody has, one without a password, one in several tenants and a wrong password are
refused alike, after the same work; all are counted alike.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from shared.errors import NotAuthenticated, TooManyFailures
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.credentials import SESSION_PREFIX, hash_session, new_secret, shown_of
from shared.service.passwords import Passwords
from shared.settings import Settings
from shared.turn.model import Principal

MAX_SESSIONS: Final = 50
"""Of a user; another one ends the oldest."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has just begun. `secret` is stored nowhere."""

    secret: str
    principal: Principal
    expires_at: datetime


class SignIn:
    """Sessions of users with passwords."""

    def __init__(self, database: Database, passwords: Passwords, settings: Settings) -> None:
        self._database = database
        self._passwords = passwords
        self._settings = settings
        self._pepper = settings.key_pepper.get_secret_value().encode()

    async def sign_in(
        self, email: str, password: str, organization: str | None, replaced: str | None
    ) -> Session:
        """A new session; `replaced`, the secret of the one the browser had, ends.

        Raises:
            NotAuthenticated: not this password, or nobody to try it on.
            TooManyFailures: too many attempts on this account; nothing was tried.
            Saturated: too many passwords are being checked.
        """
        email = email.strip()
        account = self._account_of(email)
        await self._count_attempt(account)
        rows = await self._database.fetch_many("find_sign_in", email, organization)
        user = rows[0] if len(rows) == 1 else None
        stored = None if user is None else user["password_hash"]
        is_right = await self._passwords.is_right(stored, password)
        if user is None or not is_right:
            raise NotAuthenticated("Not authenticated")
        await self._database.fetch_many("forget_login_attempts", account)
        return await self._begin(user, replaced)

    async def sign_out(self, session_id: UUID) -> bool:
        """Ends a session; False: the credential is none."""
        return await self._database.fetch_one("end_session", session_id) is not None

    async def _begin(self, user: asyncpg.Record, replaced: str | None) -> Session:
        tenant_id, user_id = user["tenant_id"], user["id"]
        secret, session_id = new_secret(SESSION_PREFIX), new_id()
        old = None if replaced is None else hash_session(self._pepper, replaced)
        row = await self._database.fetch_one(
            "add_session",
            session_id,
            tenant_id,
            user_id,
            hash_session(self._pepper, secret),
            shown_of(secret),
            float(self._settings.session_ttl_s),
            old,
            MAX_SESSIONS,
            user["password_hash"],
        )
        if row is None:  # the password was changed while it was being checked
            raise NotAuthenticated("Not authenticated")
        principal = Principal(tenant_id, user_id, session_id, is_self_made=True)
        return Session(secret, principal, row["expires_at"])

    async def _count_attempt(self, account: bytes) -> None:
        limit = self._settings.login_attempts
        if not limit:
            return
        row = await self._database.fetch_one(
            "count_login_attempt", account, float(self._settings.login_window_s)
        )
        if row is not None and row["attempts"] > limit:
            raise TooManyFailures(max(1, math.ceil(row["left_s"])))

    def _account_of(self, email: str) -> bytes:
        # Bytes have no other letters than A to Z, and `find_sign_in` folds no others: whatever
        # text finds an account counts as that account.
        return hmac.digest(self._pepper, b"account:" + email.encode().lower(), "sha256")
