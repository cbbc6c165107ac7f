"""Access tokens, the caller's account, and how soon a revocation is seen everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from api.admission import RateLimit
from api.app import create_app
from shared.service.accounts import (
    create_api_key,
    create_tenant,
    create_user,
    find_tenant,
    list_api_keys,
    revoke_api_key,
    set_password,
    set_subject,
    set_tenant_disabled,
    set_user_disabled,
)
from shared.service.credentials import find_principal
from shared.service.identity import Identity
from shared.service.passwords import hash_password
from shared.service.users import MAX_TOKENS
from shared.settings import Settings
from tests.fixtures.provider import AUDIENCE, ISSUER, Issuer
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User

TOKENS, ME, USER = "/api/v1/access-tokens", "/api/v1/auth/me", "/api/v1/users/me"
SHORTLY = {"deltas": 1000, "intervalMs": 50}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def root(app: Starlette, user: User) -> AsyncIterator[httpx.AsyncClient]:
    """The user's client, at the root of the API."""
    async with client_of(app, user.headers["authorization"].removeprefix("Bearer ")) as client:
        yield client


def client_of(app: Starlette, secret: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=bearer(secret)
    )


async def test_a_token_from_beginning_to_end(
    app: Starlette, root: httpx.AsyncClient, admin: Any
) -> None:
    made = await root.post(TOKENS, json={"name": " laptop ", "expiresInDays": 30})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    plaintext, token = made.json()["plaintext"], made.json()["token"]
    assert plaintext.startswith("vai_pat_")
    assert len(plaintext) == len("vai_pat_") + 43
    assert set(token) == {
        "id", "name", "tokenPrefix", "tokenType", "createdAt", "expiresAt", "lastUsedAt",
        "revokedAt",
    }  # fmt: skip
    assert (token["name"], token["tokenType"], token["lastUsedAt"]) == ("laptop", "pat", None)
    assert plaintext.startswith(token["tokenPrefix"])
    assert len(token["tokenPrefix"]) == 12
    left = datetime.fromisoformat(token["expiresAt"]) - datetime.now(UTC)
    assert abs(left - timedelta(days=30)) < timedelta(minutes=1)
    rows = await admin.fetch("select k::text as row from api_keys k")
    assert plaintext not in str(rows)

    for headers in (bearer(plaintext), {"x-api-key": plaintext, "authorization": ""}):
        with_it = httpx.Headers({n: v for n, v in headers.items() if v})
        root.headers.pop("authorization", None)
        me = (await root.get(ME, headers=with_it)).json()
        assert me["session"]["tokenType"] == "pat"
        assert me["session"]["sessionId"] == token["id"]
    root.headers.update(bearer(plaintext))
    another = await root.post(TOKENS, json={"name": "child"})
    assert another.status_code == 403, "it would live on through it"
    listed = (await root.get(TOKENS)).json()
    assert [item["tokenType"] for item in listed["items"]] == ["pat", "api_key"]
    assert plaintext not in str(listed)
    assert (await root.delete(f"{TOKENS}/{token['id']}")).status_code == 204
    assert (await root.delete(f"{TOKENS}/{token['id']}")).status_code == 401, "it has ended itself"


async def test_lists_are_pages_and_tokens_are_limited(
    root: httpx.AsyncClient, admin: Any, add_user: AddUser, user: User
) -> None:
    (owner,) = await admin.fetch("select tenant_id, user_id from api_keys")
    await admin.execute(
        "insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name, token_type,"
        " expires_at) select gen_random_uuid(), $1, $2, sha256(n::text::bytea), 'p', 'n', 'pat',"
        " now() + '1 h' from generate_series(1, $3) n",
        owner["tenant_id"], owner["user_id"], MAX_TOKENS,
    )  # fmt: skip
    refused = await root.post(TOKENS, json={"name": "one more"})
    assert refused.status_code == 409
    await admin.execute("update api_keys set revoked_at = now() where name = 'n'")
    assert (await root.post(TOKENS, json={"name": "one more"})).status_code == 201
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "40"} | ({"cursor": cursor} if cursor else {})
        page = (await root.get(TOKENS, params=query)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["nextCursor"]
    assert len(seen) == len(set(seen)) == MAX_TOKENS + 2
    colleague = await add_user(user.tenant_id)
    for path in (f"{TOKENS}/{seen[0]}", f"{TOKENS}/{owner['user_id']}"):
        answer = await colleague.delete(f"http://test{path}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "Access token not found"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": " "}, {"name": "x" * 256}, {"name": 1},
        {"name": "x", "expiresInDays": 0}, {"name": "x", "expiresInDays": 366},
        {"name": "x", "expiresInDays": True}, {"name": "x", "expiresInDays": "7"},
        {"name": "x", "expiresInDays": 1.5},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_token(root: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await root.post(TOKENS, json=body)
    assert answer.status_code == 422
    assert all(set(item) == {"loc", "msg", "type"} for item in answer.json()["detail"])


async def test_uses_are_noted_together_and_rarely(
    app: Starlette, root: httpx.AsyncClient, admin: Any
) -> None:
    keys = app.state.credentials
    for _ in range(3):
        assert (await root.get(ME)).status_code == 200
    assert await admin.fetchval("select last_used_at from api_keys") is None
    await keys.note_uses()
    noted = await admin.fetchval("select last_used_at from api_keys")
    assert noted is not None
    keys._used.add(await admin.fetchval("select id from api_keys"))
    await keys.note_uses()
    assert await admin.fetchval("select last_used_at from api_keys") == noted, "to the minute"
    listed = (await root.get(TOKENS)).json()["items"]
    assert datetime.fromisoformat(listed[0]["lastUsedAt"]) == noted


# -- revocation


DEATHS = [
    "revoked", "expired", "maker revoked", "maker expired", "user disabled", "tenant disabled",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("death", DEATHS)
async def test_in_five_seconds_no_process_lets_a_dead_key_pass(
    app: Starlette, settings: Settings, user: User, admin: Any, death: str
) -> None:
    """Two processes know the key; streams are opened in both for as long as it passes."""
    thread_id = await user.thread()
    turn_id = (await user.submit(thread_id, settings={"script": SHORTLY})).json()["id"]
    other_app = create_app(settings)
    secret = user.headers["authorization"].removeprefix("Bearer ")
    ended_after: list[float] = []
    (row,) = await admin.fetch("select id, user_id, tenant_id from api_keys")
    if death.startswith("maker"):
        async with client_of(app, secret) as maker:
            secret = (await maker.post(TOKENS, json={"name": "child"})).json()["plaintext"]
        user.headers.update(bearer(secret))
    async with other_app.router.lifespan_context(other_app), client_of(other_app, secret) as other:
        assert (await other.get(ME)).status_code == 200
        key_id, database = row["id"], app.state.database
        began = time.monotonic()
        match death.removeprefix("maker "):
            case "revoked":
                assert await revoke_api_key(database, key_id)
            case "expired":
                await admin.execute("update api_keys set expires_at = now() where id = $1", key_id)
            case "user disabled":
                await set_user_disabled(database, row["user_id"], True)
            case _:
                await set_tenant_disabled(database, row["tenant_id"], True)

        async def attempt(client: httpx.AsyncClient, base: str) -> None:
            """A new stream every 0.2 s; what counts is when the last one ends."""
            async with asyncio.TaskGroup() as group:
                while (await client.get(f"{base}/threads")).status_code == 200:
                    group.create_task(read(client, f"{base}/turns/{turn_id}/events"))
                    await asyncio.sleep(0.2)
                ended_after.append(time.monotonic() - began)

        async def read(client: httpx.AsyncClient, url: str) -> None:
            await client.get(url)
            ended_after.append(time.monotonic() - began)

        async with asyncio.TaskGroup() as group:
            group.create_task(attempt(user, ""))
            group.create_task(attempt(other, "/api/v1/chat"))
    print(f"\n{death}: the last one ended after {max(ended_after):.2f} s of {len(ended_after)}")
    assert len(ended_after) > 2
    assert max(ended_after) < 5


async def test_a_token_is_shown_as_over_when_the_key_it_was_made_with_is(
    app: Starlette, root: httpx.AsyncClient, user: User, admin: Any
) -> None:
    soon = datetime.now(UTC) + timedelta(days=3)
    key_id = await admin.fetchval("select id from api_keys")
    await admin.execute("update api_keys set expires_at = $1", soon)
    child = (await root.post(TOKENS, json={"name": "child"})).json()
    assert datetime.fromisoformat(child["token"]["expiresAt"]) == soon
    assert child["token"]["revokedAt"] is None
    await revoke_api_key(app.state.database, key_id)
    secret = await create_api_key(
        app.state.database, tenant_id=user.tenant_id, name="another",
        user_id=await admin.fetchval("select user_id from api_keys limit 1"),
        pepper=app.state.sign_in._pepper,
    )  # fmt: skip
    async with client_of(app, secret) as client:
        _, shown, key = (await client.get(TOKENS)).json()["items"]
        assert (shown["name"], shown["tokenType"]) == ("child", "pat")
        assert shown["revokedAt"] == key["revokedAt"] is not None
        for item in await list_api_keys(app.state.database, None):
            assert (item["revoked_at"] is None) == (item["name"] == "another")
    async with client_of(app, child["plaintext"]) as client:
        assert (await client.get(ME)).status_code == 401


async def test_a_token_outlives_the_session_it_was_made_in(app: Starlette, user: User) -> None:
    """A password stands behind it; the keys of others do not end it either."""
    database = app.state.database
    user_id = await create_user(database, user.tenant_id, "ann@example.org", "Ann")
    await set_password(database, user_id, hash_password("correct horse battery"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://localhost",
        headers={"sec-fetch-site": "same-origin"},
    ) as browser:
        account = {"email": "ann@example.org", "password": "correct horse battery"}
        assert (await browser.post("/api/v1/auth/login", json=account)).status_code == 204
        made = await browser.post(TOKENS, json={"name": "laptop"})
        assert made.status_code == 201
        assert (await browser.post("/api/v1/auth/logout")).status_code == 204
    async with client_of(app, made.json()["plaintext"]) as client:
        assert (await client.get(ME)).json()["session"]["tokenType"] == "pat"


async def test_what_this_process_revokes_it_refuses_at_once(
    app: Starlette, root: httpx.AsyncClient, user: User
) -> None:
    made = (await root.post(TOKENS, json={"name": "x"})).json()
    async with client_of(app, made["plaintext"]) as client:
        assert (await client.get(ME)).status_code == 200
        await root.delete(f"{TOKENS}/{made['token']['id']}")
        assert (await client.get(ME)).status_code == 401


# -- the caller


async def test_preferences(root: httpx.AsyncClient) -> None:
    before = (await root.get(USER)).json()
    assert set(before) == {"id", "email", "name", "timezone", "locale", "createdAt"}
    assert (before["timezone"], before["locale"]) == (None, None)
    wanted = {"timezone": "Europe/Vienna", "locale": "de-AT"}
    changed = await root.patch(f"{USER}/preferences", json=wanted)
    assert (changed.status_code, changed.json()) == (200, wanted)
    answer = await root.patch(USER, json={"name": "Ann", "timezone": None})
    assert answer.json() == before | {"name": "Ann", "locale": "de-AT"}
    assert (await root.patch(USER, json={})).json() == answer.json()


@pytest.mark.parametrize(
    "body",
    [
        {"timezone": "Mars/Olympus"}, {"timezone": "../etc/passwd"}, {"timezone": ""},
        {"timezone": "localtime"}, {"timezone": 1}, {"locale": "x"}, {"locale": "de_AT"},
        {"locale": "de-AT\n"}, {"locale": "a" * 36}, {"name": ""}, {"name": None},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_preference(root: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await root.patch(USER, json=body)).status_code == 422


# -- tokens of an identity provider


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer()
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    return issuer


def trusting(settings: Settings, path: Path, **more: Any) -> Settings:
    return settings.model_copy(
        update={
            "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_file": path / "keys.json",
            "jwt_tenant_claim": "org", **more,
        }
    )  # fmt: skip


async def test_a_token_of_the_provider_is_its_user(
    settings: Settings, issuer: Issuer, tmp_path: Path, user: User, admin: Any
) -> None:
    (row,) = await admin.fetch("select user_id, tenant_id from api_keys")
    slug = await admin.fetchval("select slug from tenants")
    app = create_app(trusting(settings, tmp_path))
    async with app.router.lifespan_context(app):
        async with client_of(app, issuer.token(org=slug)) as client:
            assert (await client.get(ME)).status_code == 401, "nobody is ann yet"
        await set_subject(app.state.database, row["user_id"], "ann")
        async with client_of(app, issuer.token(org=slug)) as client:
            await asyncio.sleep(1.1)  # a refusal is remembered for a second
            me = (await client.get(ME)).json()
            assert me["user"]["id"] == str(row["user_id"])
            assert (me["session"]["tokenType"], me["session"]["authMethod"]) == ("jwt", "bearer")
            assert (await client.post("/api/v1/chat/threads", json={})).status_code == 201
            assert app.state.credentials.find_known(client.headers["authorization"].encode())
            refused = await client.post(TOKENS, json={"name": "x"})
            assert refused.status_code == 403, "it would live on through it"
            await set_user_disabled(app.state.database, row["user_id"], True)

            async def kept_out() -> bool:
                return (await client.get(ME)).status_code == 401

            await wait_until(kept_out, "the user is kept out")
        other = str(UUID(int=0))
        for claims in ({"org": "nowhere"}, {"org": other}, {"org": slug, "sub": "bob"}, {}):
            async with client_of(app, issuer.token(**claims)) as client:
                assert (await client.get(ME)).status_code == 401


async def test_a_tenant_is_named_by_its_short_name_or_by_its_id_as_it_is_written(
    app: Starlette, user: User, admin: Any
) -> None:
    database, tenant_id = app.state.database, user.tenant_id
    (row,) = await admin.fetch("select id from users")
    await set_subject(database, row["id"], "ann")

    async def find(tenant: str) -> UUID | None:
        identity = Identity("https://id.example", tenant, "ann", None, None, time.time() + 60)
        found = await find_principal(database, identity, False)
        return None if found is None else found.user_id

    names = (await admin.fetchval("select slug from tenants"), str(tenant_id))
    for name in names:
        assert await find(name) == row["id"]
        assert (await find_tenant(database, name))["id"] == tenant_id  # type: ignore[index]
    for name in (str(tenant_id).upper(), tenant_id.hex, f"{{{tenant_id}}}", "", "no such"):
        assert await find(name) is None
        assert await find_tenant(database, name) is None
    other = await create_tenant(database, "Other")
    await admin.execute("update tenants set slug = $2 where id = $1", other, str(tenant_id))
    assert await find(str(tenant_id)) is None, "the short name goes first"
    await set_tenant_disabled(database, other, True)
    assert await find(str(tenant_id)) == row["id"]
    await set_tenant_disabled(database, tenant_id, True)
    for name in names:
        assert await find(name) is None


async def test_users_are_made_when_that_is_wanted_and_take_over_nobody(
    settings: Settings, issuer: Issuer, tmp_path: Path, user: User, admin: Any
) -> None:
    tenant_id = str(user.tenant_id)
    app = create_app(trusting(settings, tmp_path, jwt_auto_provision=True))
    async with app.router.lifespan_context(app):
        known = await admin.fetchval("select email from users")
        thief = issuer.token(sub="thief", org=tenant_id, email=known.upper(), email_verified=True)
        async with client_of(app, thief) as client:
            assert (await client.get(ME)).status_code == 401
        token = issuer.token(
            sub="eve", org=tenant_id, email="eve@example.org", email_verified=True, name="Eve"
        )
        async with client_of(app, token) as client:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.get(ME)) for _ in range(5)]
            assert {task.result().status_code for task in tasks} == {200}
            assert tasks[0].result().json()["user"]["email"] == "eve@example.org"
        assert await admin.fetchval("select count(*) from users") == 2


async def test_nobody_is_made_under_an_address_that_was_not_verified(
    settings: Settings, issuer: Issuer, tmp_path: Path, user: User
) -> None:
    """Neither a claim nor a subject that looks like one occupies another person's address."""
    app = create_app(trusting(settings, tmp_path, jwt_auto_provision=True))
    org, boss = str(user.tenant_id), "boss@example.org"
    seen = set()
    async with app.router.lifespan_context(app):
        for claims in (
            {"sub": "a", "email": boss},
            {"sub": "A", "email": boss, "email_verified": False},
            {"sub": "b", "email": boss, "email_verified": "true"},
            {"sub": "c" * 255, "email": boss, "email_verified": 1},
            {"sub": boss},
        ):
            async with client_of(app, issuer.token(org=org, **claims)) as client:
                answer = await client.get(ME)
                assert answer.status_code == 200, claims
                email = answer.json()["user"]["email"]
                assert email.endswith("@issuer.example.invalid")
                assert len(email) <= 320
                seen.add(email)
        assert len(seen) == 5
        owner = issuer.token(org=org, sub="boss", email=boss, email_verified=True)
        async with client_of(app, owner) as client:
            assert (await client.get(ME)).json()["user"]["email"] == boss


async def test_a_stream_ends_with_the_token_that_opened_it(
    settings: Settings, issuer: Issuer, tmp_path: Path, user: User, admin: Any
) -> None:
    thread_id = await user.thread()
    turn_id = (await user.submit(thread_id)).json()["id"]
    (row,) = await admin.fetch("select user_id from api_keys")
    app = create_app(trusting(settings, tmp_path, keep_alive_s=0.2))
    async with app.router.lifespan_context(app):
        await set_subject(app.state.database, row["user_id"], "ann")
        soon = issuer.token(org=str(user.tenant_id), exp=int(time.time()) - 58)
        async with client_of(app, soon) as client:
            began = time.monotonic()
            answer = await client.get(f"/api/v1/chat/turns/{turn_id}/events")
            assert answer.status_code == 200
            assert time.monotonic() - began < 5
            assert "stream.reconnect" in answer.text
            assert (await client.get(ME)).status_code == 401


@pytest.mark.parametrize("successor", ["bob", "back\\slash \u00fc"])
async def test_a_stream_ends_when_its_subject_is_nobody_any_more(
    settings: Settings, issuer: Issuer, tmp_path: Path, user: User, admin: Any, successor: str
) -> None:
    turn_id = (await user.submit(await user.thread())).json()["id"]
    user_id, org = await admin.fetchval("select user_id from api_keys"), str(user.tenant_id)
    app = create_app(trusting(settings, tmp_path))
    path = f"/api/v1/chat/turns/{turn_id}/events"
    async with app.router.lifespan_context(app):
        database = app.state.database
        await set_subject(database, user_id, "ann")
        async with client_of(app, issuer.token(org=org)) as client, asyncio.TaskGroup() as group:
            before = (await client.get(ME)).json()["session"]["sessionId"]
            stream = group.create_task(client.get(path))
            await wait_until(lambda: app.state.admission.streams.open == 1, "it is open")
            await set_subject(database, user_id, successor)
            async with asyncio.timeout(5):
                answer = await stream
            assert "stream.reconnect" not in answer.text, "it would be told to come again"
            assert (await client.get(path)).status_code == 401
        async with client_of(app, issuer.token(org=org, sub=successor)) as client:
            me = (await client.get(ME)).json()
            assert me["user"]["id"] == str(user_id)
            assert me["session"]["sessionId"] not in (before, str(user_id))
            await asyncio.sleep(2.5)  # the credentials are asked for every two seconds
            assert (await client.get(ME)).status_code == 200


async def test_without_keys_nobody_can_tell(
    settings: Settings, issuer: Issuer, tmp_path: Path
) -> None:
    app = create_app(trusting(settings, tmp_path / "none"))
    async with app.router.lifespan_context(app):
        async with client_of(app, issuer.token(org="x")) as client:
            assert (await client.get(ME)).status_code == 503
        async with client_of(app, "vai_sk_wrong") as client:
            assert (await client.get(ME)).status_code == 401, "other credentials go on"


async def test_who_makes_tokens_has_one_share_of_what_is_limited(
    app: Starlette, root: httpx.AsyncClient
) -> None:
    """A key that an operator made has its own."""
    app.state.rate_limit = RateLimit(4)
    made = [(await root.post(TOKENS, json={"name": "x"})).json()["plaintext"] for _ in range(2)]
    first, second = [client_of(app, secret) for secret in made]
    async with first, second:
        left = []
        for asked in (first, second, first, second):
            answered = await asked.get(USER)
            assert answered.status_code == 200
            left.append(answered.headers["x-ratelimit-remaining"])
        assert left == ["3", "2", "1", "0"]
        for asked in (first, second):
            assert (await asked.get(USER)).status_code == 429
        assert (await root.get(USER)).headers["x-ratelimit-remaining"] == "1"
        app.state.rate_limit = None
        artifact = await root.post("/api/v1/artifacts/upload", files={"file": ("a", b"x")})
        path = f"/api/v1/artifacts/{artifact.json()['id']}/content"
        user_id = UUID((await root.get(USER)).json()["id"])
        with contextlib.ExitStack() as held:
            for _ in range(16):
                held.enter_context(app.state.admission.transfer(user_id))
            for asked in (first, second):
                assert (await asked.get(path)).status_code == 503
            assert (await root.get(path)).status_code == 200
        assert (await first.get(path)).status_code == 200
