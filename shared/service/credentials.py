"""Credentials: API keys, personal tokens, sessions, and the tokens of an identity provider.

Secrets of ours are random, stored as HMAC-SHA256 under the deployment's pepper, and revocable. A
look-up is cached per process, 5 s when the secret is good and 1 s when it is not. All that is
cached or has a stream open is asked for again every 2 s (`api/stream_keeper.py`), so a revocation
is seen everywhere within 5 s while Postgres answers, also by streams opened out of the cache.
Redis plays no part: nobody is locked out when it is away.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import structlog

from shared.background import in_background
from shared.errors import NotAuthenticated, PostgresUnavailable
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.identity import Identity, looks_like_token
from shared.turn.model import CHAT_KINDS, CredentialKind, Principal, Reach

if TYPE_CHECKING:  # what verifies tokens is loaded where there is a provider alone
    from shared.service.identity_provider import IdentityProvider

log = structlog.get_logger(__name__)

GOOD_FOR_S: Final = 5.0
BAD_FOR_S: Final = 1.0
CACHE_SIZE: Final = 10_000
NOTE_USES_EVERY_S: Final = 60.0
MAX_USES: Final = 100_000
SECRET_PREFIX: Final = "vai_sk_"  # noqa: S105 - what all keys begin with
TOKEN_PREFIX: Final = "vai_pat_"  # noqa: S105 - what all personal tokens begin with
SESSION_PREFIX: Final = "vai_ses_"
MECHAMENTAL_PREFIX: Final = "mm_tok_"
KODEY_SECRET_PREFIX: Final = "sk_live_"  # noqa: S105 - what they begin with
KODEY_PUBLISHABLE_PREFIX: Final = "pk_live_"
ZYLON_PREFIX: Final = "zy_tok_"
PREFIX_OF: Final = {
    CredentialKind.API_KEY: SECRET_PREFIX,
    CredentialKind.MECHAMENTAL: MECHAMENTAL_PREFIX,
    CredentialKind.KODEY_SECRET: KODEY_SECRET_PREFIX,
    CredentialKind.KODEY_PUBLISHABLE: KODEY_PUBLISHABLE_PREFIX,
    CredentialKind.ZYLON: ZYLON_PREFIX,
}
"""Kinds that operators make, and how their secrets begin."""
_SURFACE_PREFIXES: Final = tuple(
    prefix for kind, prefix in PREFIX_OF.items() if kind is not CredentialKind.API_KEY
)
_SURFACE: Final = b"\0surface:"
_SHOWN_CHARS: Final = 12
_SESSION: Final = b"session:"
_BEARER: Final = b"Bearer "

K = TypeVar("K")
V = TypeVar("V")


class Credentials:
    """Authenticates secrets against Postgres, through bounded caches and one look-up at a time.

    As `async with` it also writes down when they were used, once a minute.
    """

    def __init__(
        self, database: Database, pepper: bytes, provider: IdentityProvider | None = None
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._provider = provider
        # Apart, so that a flood of wrong keys pushes no good one out.
        self._good: _ShortCache[bytes, Principal] = _ShortCache(GOOD_FOR_S)
        self._bad: _ShortCache[bytes, None] = _ShortCache(BAD_FOR_S)
        self._valid: _ShortCache[UUID, None] = _ShortCache(BAD_FOR_S)
        self._look_ups: dict[bytes | UUID, asyncio.Task[Principal | None]] = {}
        self._used: set[UUID] = set()
        self._loops = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._loops.enter_async_context(in_background(self._note_uses_for_ever))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._loops.aclose()
        await self.note_uses()

    async def authenticate(self, secret: str) -> Principal:
        """Who the secret of a header stands for: a key, a personal token, a provider's token.

        Raises:
            NotAuthenticated: unknown, expired or revoked.
            PostgresUnavailable: nobody can tell.
            IdentityProviderUnavailable: the same.
        """
        digest = hash_secret(self._pepper, secret)
        if self._provider is not None and looks_like_token(secret):
            provider = self._provider
            return await self._authenticate(digest, lambda: self._verify(provider, digest, secret))
        return await self._authenticate(digest, lambda: self._find(digest, digest))

    async def authenticate_session(self, secret: str) -> Principal:
        """Who is signed in with the cookie of this value; errors as of `authenticate`."""
        digest = hash_session(self._pepper, secret)
        known_as = _SESSION + digest  # a header can hash to `digest` as well: "session:" + secret
        return await self._authenticate(
            known_as, lambda: self._find(known_as, digest, is_session=True)
        )

    def find_known(self, authorization: bytes) -> Principal | None:
        """Who `Bearer …` stands for, if that was asked in the last seconds; None tells nothing.

        Only of the kinds that the primary surface takes.
        """
        if not authorization.startswith(_BEARER):
            return None
        digest = hmac.digest(self._pepper, authorization[len(_BEARER) :], "sha256")
        known = self._good.get(digest)
        return None if known is None or known.value.kind not in CHAT_KINDS else known.value

    async def require_valid(self, principal: Principal) -> None:
        """Asks again, at most once a second per key: has it been revoked meanwhile?

        Raises:
            NotAuthenticated: it has been, or has expired.
            PostgresUnavailable: nobody can tell.
        """
        is_over = principal.expires_at is not None and principal.expires_at <= time.time()
        if not is_over:
            if self._valid.get(principal.key_id) is not None:
                return
            confirm = functools.partial(self._confirm, principal)
            if await self._once(principal.key_id, confirm) is not None:
                return
        raise NotAuthenticated("The credential is no longer valid")

    async def find_valid(self, key_ids: set[UUID]) -> set[UUID]:
        """Those of the credentials that may still be used, as Postgres has it now.

        Raises:
            PostgresUnavailable: nobody can tell.
        """
        rows = await self._database.fetch_many("list_valid_credentials", list(key_ids))
        return {row["id"] for row in rows}

    async def find_revoked(self, in_use: set[UUID]) -> set[UUID]:
        """Those of `in_use`, and of all that are cached, that may no longer be used.

        They are forgotten: from now on nobody passes under them.

        Raises:
            PostgresUnavailable: nobody can tell.
        """
        asked = in_use | {principal.key_id for principal in self._good.values()}
        if not asked:
            return set()
        revoked = asked - await self.find_valid(asked)
        if revoked:
            self.forget(revoked)
        return revoked

    def forget(self, key_ids: set[UUID]) -> None:
        """What this process knows of credentials; the next request asks Postgres."""
        self._good.remove(lambda principal: principal.key_id in key_ids)
        for key_id in key_ids:
            self._valid.discard(key_id)

    async def note_uses(self) -> None:
        """Writes down what was used since the last time. A use is lost rather than waited for."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._database.fetch_many("note_key_uses", list(used))
        except (PostgresUnavailable, asyncpg.PostgresError) as error:
            log.warning("auth.uses_not_noted", count=len(used), error=type(error).__name__)

    async def _note_uses_for_ever(self) -> None:
        while True:
            await asyncio.sleep(NOTE_USES_EVERY_S)
            await self.note_uses()

    async def _authenticate(
        self, known_as: bytes, look_up: Callable[[], Coroutine[Any, Any, Principal | None]]
    ) -> Principal:
        if (known := self._good.get(known_as)) is not None:
            return known.value
        principal = None
        if self._bad.get(known_as) is None:
            principal = await self._once(known_as, look_up)
        if principal is None:
            raise NotAuthenticated("Not authenticated")
        return principal

    async def _once(
        self, key: bytes | UUID, look_up: Callable[[], Coroutine[Any, Any, Principal | None]]
    ) -> Principal | None:
        task = self._look_ups.get(key)
        if task is None:
            task = self._look_ups[key] = asyncio.create_task(look_up())
            task.add_done_callback(functools.partial(self._looked_up, key))
        return await asyncio.shield(task)

    def _looked_up(self, key: bytes | UUID, task: asyncio.Task[Principal | None]) -> None:
        del self._look_ups[key]
        if not task.cancelled():
            task.exception()  # read here: every caller may have gone

    async def _find(
        self, known_as: bytes, digest: bytes, *, is_session: bool = False
    ) -> Principal | None:
        asked_at = time.monotonic()  # a revocation after this moment may go unseen
        row = await self._database.fetch_one("find_api_key", digest)
        if (
            row is None
            or not hmac.compare_digest(row["key_hash"], digest)
            or (row["token_type"] == CredentialKind.SESSION) is not is_session
        ):
            self._bad.put(known_as, None, asked_at)
            return None
        principal = Principal(
            row["tenant_id"],
            row["user_id"],
            row["id"],
            is_self_made=row["is_self_made"],
            kind=CredentialKind(row["token_type"]),
            reach=Reach(*(_names(row[n]) for n in ("workspaces", "namespaces", "permissions"))),
        )
        self._good.put(known_as, principal, asked_at)
        if len(self._used) < MAX_USES:
            self._used.add(principal.key_id)
        return principal

    async def _verify(
        self, provider: IdentityProvider, digest: bytes, token: str
    ) -> Principal | None:
        asked_at = time.monotonic()
        try:
            identity = await provider.verify(token)
        except NotAuthenticated as error:
            log.info("auth.token_refused", reason=str(error))
            self._bad.put(digest, None, asked_at)
            return None
        principal = await find_principal(self._database, identity, provider.makes_users)
        if principal is None:
            self._bad.put(digest, None, asked_at)
            return None
        left_s = identity.expires_at - time.time()
        self._good.put(digest, principal, asked_at - max(0.0, GOOD_FOR_S - left_s))
        return principal

    async def _confirm(self, principal: Principal) -> Principal | None:
        asked_at = time.monotonic()
        if not await self.find_valid({principal.key_id}):
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

    def values(self) -> list[V]:
        """What is still good; the rest is forgotten."""
        now = time.monotonic()
        for key in [key for key, known in self._entries.items() if known.until <= now]:
            del self._entries[key]
        return [known.value for known in self._entries.values()]

    def remove(self, is_meant: Callable[[V], bool]) -> None:
        for key in [key for key, known in self._entries.items() if is_meant(known.value)]:
            del self._entries[key]

    def discard(self, key: K) -> None:
        self._entries.pop(key, None)


def _names(value: list[str] | None) -> frozenset[str] | None:
    return None if value is None else frozenset(value)


def hash_secret(pepper: bytes, secret: str) -> bytes:
    """What is stored of a secret that travels in headers.

    Of the kinds that other surfaces take it is another hash, and one that no header leads to: a
    release that does not know these kinds would take a key that is in every browser for its user's
    own. It serves beside this one while processes are exchanged, and after a way back.
    """
    told = secret.encode()
    if secret.startswith(_SURFACE_PREFIXES):
        told = _SURFACE + told
    return hmac.digest(pepper, told, "sha256")


def hash_session(pepper: bytes, secret: str) -> bytes:
    """What is stored of a session: another hash, so that its secret is nobody's key."""
    return hmac.digest(pepper, _SESSION + secret.encode(), "sha256")


def new_secret(prefix: str = SECRET_PREFIX) -> str:
    """256 random bits that look like a secret of ours."""
    return prefix + secrets.token_urlsafe(32)


def shown_of(secret: str) -> str:
    """The first characters, by which a person knows it again."""
    return secret[: min(_SHOWN_CHARS, len(secret) // 3)]


async def find_principal(
    database: Database, identity: Identity, makes_users: bool
) -> Principal | None:
    """The user whom a provider's token names, made when that is wanted; None: there is none."""
    row = await _find_subject(database, identity)
    if row is not None and row["id"] is None and makes_users:
        made = await database.fetch_one(
            "add_subject",
            new_id(),
            row["tenant_id"],
            identity.email or _no_address_of(identity),
            identity.name or identity.email or identity.subject,
            identity.subject,
        )
        # Not made: another request was quicker, or the address is another user's. Who takes over an
        # account by its address alone would need no more than a provider that does not check it.
        log.info("auth.user_made" if made else "auth.user_not_made")
        row = await _find_subject(database, identity)
    if row is None or row["id"] is None or row["is_disabled"]:
        return None
    return Principal(
        row["tenant_id"],
        row["id"],
        row["subject_id"],
        identity.expires_at,
        is_self_made=True,
        kind=CredentialKind.PROVIDER,
    )


def _no_address_of(identity: Identity) -> str:
    """What stands for the address of who has none: always the same, and nobody's (RFC 2606).

    Hashed, because subjects may be long, differ in case only, or look like an address themselves.
    """
    host = urlsplit(identity.issuer).hostname or "issuer"
    return f"{hashlib.sha256(identity.subject.encode()).hexdigest()[:32]}@{host}.invalid"


async def _find_subject(database: Database, identity: Identity) -> asyncpg.Record | None:
    tenant = identity.tenant
    return await database.fetch_one("find_subject", tenant, as_tenant_id(tenant), identity.subject)


def as_tenant_id(name: str) -> UUID | None:
    """The id that a tenant's name is, in the one way it is written; None: it is a short name."""
    try:
        found = UUID(name)
    except ValueError:
        return None
    return found if str(found) == name else None
