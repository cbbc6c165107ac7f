"""API keys: valid, revoked, expired, flooded, and a Postgres that is away."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

import pytest

from shared.errors import NotAuthenticated, PostgresUnavailable
from shared.postgres.pool import Database
from shared.postgres.tenant import TenantDatabase
from shared.service import credentials
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.service.credentials import PREFIX_OF, Credentials, hash_secret, new_secret
from shared.turn.model import CredentialKind, Principal
from tests.fixtures.waiting import wait_until
from tests.integration.api_crud.conftest import PEPPER, THREADS, AddClient, Client


@pytest.fixture
async def secret(database: Database) -> str:
    tenant_id = await create_tenant(database, "Test")
    user_id = await create_user(database, tenant_id, "a@example.org", "A")
    return await create_api_key(
        database, tenant_id=tenant_id, user_id=user_id, name="test", pepper=PEPPER
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the queries asked so far."""
    names: list[str] = []

    def counting(fetch: Any) -> Any:
        async def count(self: Any, name: str, *args: Any) -> Any:
            names.append(name)
            return await fetch(self, name, *args)

        return count

    for door in (Database, TenantDatabase):
        for method in ("fetch_one", "fetch_many"):
            monkeypatch.setattr(door, method, counting(getattr(door, method)))
    return names


async def test_the_secret_is_stored_nowhere(secret: str, admin: Any) -> None:
    row = await admin.fetchrow("select * from api_keys")
    assert row["key_hash"] == hash_secret(PEPPER, secret)
    assert secret not in str(dict(row))
    assert secret.startswith(row["prefix"])
    assert len(row["prefix"]) <= len(secret) // 3


@pytest.mark.parametrize(
    "kind",
    [
        CredentialKind.MECHAMENTAL,
        CredentialKind.KODEY_SECRET,
        CredentialKind.KODEY_PUBLISHABLE,
        CredentialKind.ZYLON,
    ],
)
async def test_a_release_that_knows_no_kinds_does_not_know_these_keys(
    database: Database, admin: Any, kind: CredentialKind
) -> None:
    """While processes are exchanged, or after a way back, such a one serves on the same rows.

    It looks for the plain hash of what a header holds, and takes whatever it finds for its user.
    """
    tenant_id = await create_tenant(database, "Acme")
    user_id = await create_user(database, tenant_id, "a@example.org", "A")
    who: dict[str, Any] = {
        "tenant_id": tenant_id, "user_id": user_id, "name": "test", "pepper": PEPPER, "kind": kind,
    }  # fmt: skip
    secret = await create_api_key(database, **who)
    assert (await Credentials(database, PEPPER).authenticate(secret)).kind is kind
    kept = await admin.fetchval("select key_hash from api_keys where token_type = $1", kind)
    for sent in (secret, f"surface:{secret}", f"{kind}:{secret}", f"session:{secret}"):
        assert hmac.digest(PEPPER, sent.encode(), "sha256") != kept
        if sent != secret:
            with pytest.raises(NotAuthenticated):
                await Credentials(database, PEPPER).authenticate(sent)
    with pytest.raises(ValueError, match="begins with"):
        await create_api_key(database, secret="of no kind", **who)


async def test_authenticates(database: Database, secret: str, admin: Any) -> None:
    principal = await Credentials(database, PEPPER).authenticate(secret)
    row = await admin.fetchrow("select * from api_keys")
    assert principal == Principal(row["tenant_id"], row["user_id"], row["id"])


@pytest.mark.parametrize("change", ["x", "swapcase", "cut", "like"])
async def test_near_misses(database: Database, secret: str, change: str) -> None:
    wrong = {
        "x": secret + "x",
        "swapcase": secret.swapcase(),
        "cut": secret[:-1],
        "like": "%",
    }[change]
    with pytest.raises(NotAuthenticated):
        await Credentials(database, PEPPER).authenticate(wrong)


async def test_another_pepper(database: Database, secret: str) -> None:
    with pytest.raises(NotAuthenticated):
        await Credentials(database, b"another pepper").authenticate(secret)


@pytest.mark.parametrize(
    "death",
    ["update api_keys set revoked_at = now()", "update api_keys set expires_at = now()"],
)
async def test_a_dead_key(database: Database, secret: str, admin: Any, death: str) -> None:
    await admin.execute(death)
    with pytest.raises(NotAuthenticated):
        await Credentials(database, PEPPER).authenticate(secret)


async def test_look_ups_are_cached_and_shared(
    database: Database, secret: str, asked: list[str]
) -> None:
    keys = Credentials(database, PEPPER)
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(keys.authenticate(secret))
    assert asked == ["find_api_key"]
    await keys.authenticate(secret)
    assert asked == ["find_api_key"]


async def test_a_wrong_key_is_looked_up_once_a_second(database: Database, asked: list[str]) -> None:
    keys = Credentials(database, PEPPER)
    for _ in range(3):
        with pytest.raises(NotAuthenticated):
            await keys.authenticate("wrong")
    assert asked == ["find_api_key"]
    assert credentials.BAD_FOR_S <= 1


async def test_a_new_key_works_once_the_refusal_is_old(
    database: Database, secret: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "BAD_FOR_S", 0.05)
    keys = Credentials(database, PEPPER)
    await admin.execute("update api_keys set revoked_at = now()")
    with pytest.raises(NotAuthenticated):
        await keys.authenticate(secret)
    await admin.execute("update api_keys set revoked_at = null")

    async def accepted() -> bool:
        try:
            await keys.authenticate(secret)
        except NotAuthenticated:
            return False
        return True

    await wait_until(accepted, "the key is accepted")


async def test_a_cancelled_caller_does_not_cancel_the_others(
    database: Database, secret: str
) -> None:
    keys = Credentials(database, PEPPER)
    first = asyncio.create_task(keys.authenticate(secret))
    second = asyncio.create_task(keys.authenticate(secret))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert (await second) == await keys.authenticate(secret)


async def test_a_revocation_is_seen_when_the_answer_is_old(
    database: Database, secret: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "GOOD_FOR_S", 0.2)
    keys = Credentials(database, PEPPER)
    await keys.authenticate(secret)
    await admin.execute("update api_keys set revoked_at = now()")
    began = time.monotonic()
    await keys.authenticate(secret)  # still from the cache

    async def refused() -> bool:
        try:
            await keys.authenticate(secret)
        except NotAuthenticated:
            return True
        return False

    await wait_until(refused, "the key is refused")
    assert time.monotonic() - began < credentials.GOOD_FOR_S + 4


def test_a_revocation_is_seen_within_five_seconds() -> None:
    assert credentials.GOOD_FOR_S <= 5


async def test_wrong_keys_push_no_good_one_out(
    database: Database, secret: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "CACHE_SIZE", 10)
    keys = Credentials(database, PEPPER)
    await keys.authenticate(secret)
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await keys.authenticate(new_secret())
    asked.clear()
    await keys.authenticate(secret)
    assert asked == []
    assert len(keys._bad._entries) == 10


async def test_open_streams_notice_a_revocation(
    database: Database, secret: str, admin: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "BAD_FOR_S", 0.2)
    keys = Credentials(database, PEPPER)
    principal = await keys.authenticate(secret)
    for _ in range(20):
        await keys.require_valid(principal)
    assert asked.count("list_valid_credentials") == 1
    await admin.execute("update api_keys set revoked_at = now()")

    async def closed() -> bool:
        try:
            await keys.require_valid(principal)
        except NotAuthenticated:
            return True
        return False

    await wait_until(closed, "the stream is told")


async def test_what_is_cached_is_asked_for_without_any_stream(
    database: Database, secret: str, admin: Any
) -> None:
    """Else a stream could begin out of the cache when the 5 s are nearly over."""
    keys = Credentials(database, PEPPER)
    assert await keys.find_revoked(set()) == set()
    principal = await keys.authenticate(secret)
    assert keys.find_known(f"Bearer {secret}".encode()) == principal
    assert await keys.find_revoked(set()) == set()
    await admin.execute("update api_keys set revoked_at = now()")
    assert await keys.find_revoked(set()) == {principal.key_id}
    assert keys.find_known(f"Bearer {secret}".encode()) is None
    with pytest.raises(NotAuthenticated):
        await keys.authenticate(secret)


async def test_an_absent_postgres_is_no_verdict(settings: Any) -> None:
    async with Database("postgresql://nobody@127.0.0.1:1/none", size=1) as away:
        keys = Credentials(away, PEPPER)
        for _ in range(2):
            with pytest.raises(PostgresUnavailable):
                await keys.authenticate("secret")


async def test_a_secret_belongs_to_one_user(database: Database, secret: str, admin: Any) -> None:
    tenant_id = await create_tenant(database, "Other")
    user_id = await create_user(database, tenant_id, "b@example.org", "B")
    await admin.execute("update api_keys set revoked_at = now()")
    with pytest.raises(ValueError, match="another user"):
        await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name="x", pepper=PEPPER, secret=secret
        )
    assert await admin.fetchval("select revoked_at is not null from api_keys")


# -- over HTTP


async def test_both_headers(client: Client, anonymous: Any) -> None:
    for headers in (
        {"authorization": f"Bearer {client.secret}"},
        {"x-api-key": client.secret},
        {"authorization": f"Bearer {client.secret}", "x-api-key": "wrong"},
    ):
        assert (await anonymous.get(THREADS, headers=headers)).status_code == 200


async def test_401(client: Client, anonymous: Any) -> None:
    answers = [
        await anonymous.get(THREADS, headers=headers)
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"x-api-key": "wrong"},
            {"authorization": "Bearer wrong", "x-api-key": client.secret},
            {"cookie": f"vai_token={client.secret}"},
        )
    ]
    answers.append(await anonymous.get(f"{THREADS}?token={client.secret}"))
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json() == {
            "detail": "Not authenticated",
            "title": "Unauthorized",
            "status": 401,
            "type": "about:blank",
        }


async def test_the_key_is_checked_before_anything_else(anonymous: Any) -> None:
    for method, path, content in [
        ("GET", f"{THREADS}/not-a-uuid", b""),
        ("GET", f"{THREADS}?limit=0", b""),
        ("POST", THREADS, b"{"),
        ("POST", THREADS, b"x" * 2_000_000),
    ]:
        assert (await anonymous.request(method, path, content=content)).status_code == 401


async def test_two_users_two_principals(add_client: AddClient) -> None:
    first = await add_client()
    second = await add_client(first.tenant_id)
    assert first.user_id != second.user_id
    made = (await first.post(THREADS)).json()
    assert (await second.get(f"{THREADS}/{made['id']}")).status_code == 404


@pytest.mark.parametrize("kind", sorted(set(PREFIX_OF) - {CredentialKind.API_KEY}))
async def test_credentials_of_other_surfaces_are_unknown_here(
    database: Database, add_client: AddClient, kind: CredentialKind
) -> None:
    """Also when the process has seen them a moment ago, and in every carrier."""
    tenant_id = await create_tenant(database, "Test")
    user_id = await create_user(database, tenant_id, "a@example.org", "A")
    secret = await create_api_key(
        database, tenant_id=tenant_id, user_id=user_id, name="x", pepper=PEPPER, kind=kind
    )
    client: Client = await add_client()
    for headers in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}) * 2:
        client.headers.pop("authorization", None)
        answer = await client.get(THREADS, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.json()["detail"] == "Not authenticated"
