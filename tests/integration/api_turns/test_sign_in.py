"""Signing in with a password, sessions, and who may act by a cookie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette

from api.app import create_app
from shared.ids import new_id
from shared.postgres.queries import sql
from shared.service.accounts import (
    create_api_key,
    create_tenant,
    create_user,
    set_password,
    set_tenant_disabled,
    set_user_disabled,
)
from shared.service.passwords import MAX_WAITING, Passwords, hash_password
from shared.service.sign_in import MAX_SESSIONS
from shared.settings import Settings
from tests.fixtures.waiting import wait_until

PASSWORD = "correct horse battery"
OWN = {"sec-fetch-site": "same-origin"}
ME, LOGIN, LOGOUT = "/api/v1/auth/me", "/api/v1/auth/login", "/api/v1/auth/logout"
HASHED = hash_password(PASSWORD)
AddPerson = Callable[..., Awaitable[UUID]]


def browser(app: Starlette, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@pytest.fixture
async def add_person(app: Starlette) -> AddPerson:
    """A user with a password: `await add_person("ann@example.org", tenant_id)`."""

    async def add(email: str, tenant_id: UUID) -> UUID:
        user_id = await create_user(app.state.database, tenant_id, email, "Ann")
        await set_password(app.state.database, user_id, HASHED)
        return user_id

    return add


@pytest.fixture
async def tenant(app: Starlette) -> UUID:
    return await create_tenant(app.state.database, "Acme & Sons")


@pytest.fixture
async def ann(add_person: AddPerson, tenant: UUID) -> UUID:
    return await add_person("Ann@example.org", tenant)


async def sign_in(
    client: httpx.AsyncClient, password: str = PASSWORD, **more: Any
) -> httpx.Response:
    body = {"email": "ann@example.org", "password": password, **more}
    return await client.post(LOGIN, json=body)


async def test_a_session_from_beginning_to_end(app: Starlette, ann: UUID, admin: Any) -> None:
    async with browser(app, **OWN) as client:
        began = await sign_in(client)
        assert began.status_code == 204
        assert began.headers["cache-control"] == "no-store"
        cookie = began.headers["set-cookie"]
        assert cookie.endswith("Path=/; Max-Age=604800; HttpOnly; SameSite=Lax")
        me = (await client.get(ME)).json()
        session_id = me["session"]["sessionId"]
        assert me["session"] | {"organization": None, "sessionId": None} == {
            "authMethod": "cookie", "tokenType": "session", "sessionId": None, "organization": None,
        }  # fmt: skip
        assert me["session"]["organization"]["slug"] == "acme-sons"
        assert me["user"]["id"] == str(ann)
        assert me["user"]["email"] == "Ann@example.org"
        assert (await client.post("/api/v1/chat/threads", json={})).status_code == 201
        secret = client.cookies["vai_token"]
        row = await admin.fetchrow("select * from api_keys where id = $1", UUID(session_id))
        assert secret not in str(dict(row))
        ended = await client.post(LOGOUT)
        assert ended.status_code == 204
        assert "vai_token=; Path=/; Max-Age=0" in ended.headers["set-cookie"]
        reused = {"cookie": f"vai_token={secret}"}
        assert (await client.get(ME, headers=reused)).status_code == 401


async def test_a_cookie_is_no_key_and_a_key_no_cookie(app: Starlette, ann: UUID, user: Any) -> None:
    async with browser(app, **OWN) as client, browser(app) as other:
        await sign_in(client)
        await client.get(ME)
        secret = client.cookies["vai_token"]
        key = user.headers["authorization"].removeprefix("Bearer ")
        await other.get(ME, headers={"x-api-key": key})
        for headers in (
            {"authorization": f"Bearer {secret}"},
            {"x-api-key": secret},
            {"authorization": f"Bearer session:{secret}"},
            {"x-api-key": f"session:{secret}"},
            {"cookie": f"vai_token={key}"},
            {"cookie": f"vai_token={secret}", "x-api-key": "wrong"},
            {"cookie": f"vai_token={secret}", "authorization": "Bearer wrong"},
            {"cookie": f"vai_token={secret}; vai_token={secret}"},
        ):
            assert (await other.get(ME, headers=headers)).status_code == 401, headers
        both = {"cookie": f"vai_token={secret}", "x-api-key": key}
        answer = (await other.get(ME, headers=both)).json()
        assert answer["session"]["authMethod"] == "api_key"
        assert answer["session"]["tokenType"] == "api_key"


async def test_what_is_hashed_like_a_session_is_none(
    app: Starlette, ann: UUID, tenant: UUID
) -> None:
    """Whoever is asked for first: no cache takes the one for the other."""
    async with browser(app, **OWN) as client, browser(app) as other:
        await sign_in(client)
        secret = client.cookies["vai_token"]
        as_key = {"authorization": f"Bearer session:{secret}"}
        assert (await other.get(ME, headers=as_key)).status_code == 401
        assert (await client.get(ME)).status_code == 200
        assert (await other.get(ME, headers=as_key)).status_code == 401
        await create_api_key(
            app.state.database, tenant_id=tenant, user_id=ann, name="odd",
            pepper=app.state.sign_in._pepper, secret="session:vai_ses_odd",
        )  # fmt: skip
        odd = await other.get(ME, headers={"x-api-key": "session:vai_ses_odd"})
        assert odd.status_code == 200
        assert (await other.get(ME, headers={"cookie": "vai_token=vai_ses_odd"})).status_code == 401


async def test_another_site_cannot_act_for_who_is_signed_in(app: Starlette, ann: UUID) -> None:
    async with browser(app) as client:
        await sign_in(client)
        for headers in ({}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = await client.post("/api/v1/chat/threads", json={}, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["detail"] == "Forbidden"
            assert (await client.post(LOGOUT, headers=headers)).status_code == 403
        ours = {"origin": "http://localhost"}
        assert (await client.post("/api/v1/chat/threads", json={}, headers=ours)).status_code == 201
        assert len((await client.get("/api/v1/chat/threads")).json()["items"]) == 1
        evil = {"origin": "https://evil.example"}
        assert (await client.get("/api/v1/chat/threads", headers=evil)).status_code == 200
        login = {"email": "ann@example.org", "password": PASSWORD}
        forged = await client.post(LOGIN, json=login, headers=evil)
        assert forged.status_code == 403
        assert "set-cookie" not in forged.headers


async def test_whatever_is_wrong_is_answered_alike(
    app: Starlette, ann: UUID, tenant: UUID, add_person: AddPerson
) -> None:
    database = app.state.database
    await create_user(database, tenant, "nopassword@example.org", "N")
    disabled = await add_person("disabled@example.org", tenant)
    await set_user_disabled(database, disabled, True)
    other = await create_tenant(database, "Other")
    for tenant_id in (tenant, other):
        await add_person("twice@example.org", tenant_id)
    shut = await create_tenant(database, "Shut")
    await add_person("shut@example.org", shut)
    await set_tenant_disabled(database, shut, True)
    answers = []
    async with browser(app) as client:
        for body in (
            {"email": "ann@example.org", "password": PASSWORD + "x"},
            {"email": "ann@example.org", "password": PASSWORD, "organization": "other"},
            {"email": "nobody@example.org", "password": PASSWORD},
            {"email": "nopassword@example.org", "password": PASSWORD},
            {"email": "disabled@example.org", "password": PASSWORD},
            {"email": "shut@example.org", "password": PASSWORD},
            {"email": "twice@example.org", "password": PASSWORD},
            {"email": "twice@example.org", "password": PASSWORD, "organization": "nowhere"},
            {"email": "%", "password": PASSWORD},
        ):
            answer = await client.post(LOGIN, json=body)
            answers.append((answer.status_code, dict(answer.headers), answer.content))
        assert {status for status, _, _ in answers} == {401}
        assert all(answer == answers[0] for answer in answers)
        named = {"email": "TWICE@example.org", "password": PASSWORD, "organization": "other"}
        assert (await client.post(LOGIN, json=named)).status_code == 204


async def test_an_unknown_address_costs_as_much_as_a_wrong_password(
    app: Starlette, ann: UUID, settings: Settings
) -> None:
    service = app.state.sign_in
    service._settings = settings.model_copy(update={"login_attempts": 0})
    took: dict[str, list[float]] = {"ann@example.org": [], "nobody@example.org": []}
    async with browser(app) as client:
        for _ in range(20):
            for email, times in took.items():
                began = time.perf_counter()
                await client.post(LOGIN, json={"email": email, "password": "wrong password"})
                times.append(time.perf_counter() - began)
    known, unknown = (sorted(times)[5] for times in took.values())
    assert 0.5 < known / unknown < 2, (known, unknown)


@pytest.mark.parametrize("email", ["ann@example.org", "nobody@example.org"])
async def test_an_account_takes_ten_guesses_also_at_once(
    app: Starlette, ann: UUID, admin: Any, email: str
) -> None:
    async with browser(app) as client:
        bodies = [{"email": email.title(), "password": f"guess {n}"} for n in range(14)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.post(LOGIN, json=body)) for body in bodies]
        statuses = [task.result().status_code for task in tasks]
        assert sorted(statuses) == [401] * 10 + [429] * 4
        refused = await client.post(LOGIN, json={"email": email, "password": PASSWORD})
        assert refused.status_code == 429, "not even the right one is tried"
        assert 0 < int(refused.headers["retry-after"]) <= 900
        stored = await admin.fetch("select t::text as row from login_attempts t")
        assert email not in str(stored)
        await admin.execute("update login_attempts set until = now() - interval '1 s'")
        later = await client.post(LOGIN, json={"email": email, "password": PASSWORD})
        assert later.status_code == (204 if email.startswith("ann") else 401)


async def test_no_spelling_of_an_address_is_counted_apart(
    app: Starlette, add_person: AddPerson, tenant: UUID, admin: Any
) -> None:
    """Postgres makes an i of U+0130 and a k of U+212A, Python other letters."""
    await add_person("Mik@example.org", tenant)
    assert await admin.fetchval("select lower('M\u0130\u212a')") == "mik"
    async with browser(app) as client:
        for email in ("mik@example.org", " MIK@EXAMPLE.ORG "):
            right = await client.post(LOGIN, json={"email": email, "password": PASSWORD})
            assert right.status_code == 204, email
        for email in ("m\u0130k@example.org", "mi\u212a@example.org", "m\u0131k@example.org"):
            guess = {"email": email, "password": PASSWORD}
            assert (await client.post(LOGIN, json=guess)).status_code == 401, email


async def test_a_success_forgets_the_failures_and_old_windows_go(
    app: Starlette, ann: UUID, admin: Any
) -> None:
    async with browser(app) as client:
        for _ in range(3):
            for _ in range(9):
                assert (await sign_in(client, "wrong password")).status_code == 401
            assert (await sign_in(client)).status_code == 204
        assert await admin.fetchval("select count(*) from login_attempts") == 0
        await admin.execute(
            "insert into login_attempts select sha256(n::text::bytea), 1, now() - interval '1 s'"
            " from generate_series(1, 15) n"
        )
        for _ in range(2):
            await sign_in(client, "wrong password")
        assert await admin.fetchval("select count(*) from login_attempts") == 1


async def test_an_address_takes_so_many_failures(app: Starlette, settings: Settings) -> None:
    few = create_app(settings.model_copy(update={"auth_failures_per_minute": 3}))
    async with few.router.lifespan_context(few), browser(few) as client:
        statuses = []
        for number in range(5):
            body = {"email": f"{number}@example.org", "password": PASSWORD}
            statuses.append((await client.post(LOGIN, json=body)).status_code)
        assert statuses == [401, 401, 401, 429, 429]
        statuses = [(await client.get(ME, headers={"x-api-key": "x"})).status_code]
        assert statuses == [429]


async def test_a_new_session_ends_the_one_the_browser_had(
    app: Starlette, ann: UUID, admin: Any
) -> None:
    async with browser(app, **OWN) as client:
        await sign_in(client)
        first = client.cookies["vai_token"]
        await sign_in(client)
        second = client.cookies["vai_token"]
        assert second != first
    async with browser(app) as other:
        for secret, status in ((first, 401), (second, 200)):
            answer = await other.get(ME, headers={"cookie": f"vai_token={secret}"})
            assert answer.status_code == status
    planted = "vai_ses_" + "a" * 43
    async with browser(app, cookie=f"vai_token={planted}") as fixed:
        answer = await sign_in(fixed)
        assert planted not in answer.headers["set-cookie"]


async def test_sessions_do_not_pile_up(app: Starlette, ann: UUID, tenant: UUID, admin: Any) -> None:
    insert = (
        "insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name, token_type,"
        " expires_at, revoked_at) values ($1, $2, $3, sha256($4::text::bytea), 'p', 'n', 'session',"
        " now() + $5::text::interval, now() + $6::text::interval)"
    )
    day, two = "1 day", "-2 days"
    for number in range(MAX_SESSIONS + 5):
        await admin.execute(insert, new_id(), tenant, ann, str(number), day, None)
    for expires, revoked in ((two, None), (day, two)):
        await admin.execute(insert, new_id(), tenant, ann, expires + str(revoked), expires, revoked)
    async with browser(app) as client:
        await sign_in(client)
        assert (await client.get(ME)).status_code == 200
    assert await admin.fetchval("select count(*) from api_keys") <= MAX_SESSIONS
    await set_password(app.state.database, ann, HASHED)
    assert not await admin.fetchval("select count(*) from api_keys where revoked_at is null")


async def test_no_session_begins_with_a_password_that_is_changed_meanwhile(
    app: Starlette, ann: UUID, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hash_password("another battery")
    passwords = app.state.sign_in._passwords
    is_right = passwords.is_right

    async def change_meanwhile(stored: str | None, password: str) -> bool:
        found: bool = await is_right(stored, password)
        await set_password(app.state.database, ann, other)
        return found

    async with browser(app) as client:
        assert (await sign_in(client)).status_code == 204
        monkeypatch.setattr(passwords, "is_right", change_meanwhile)
        assert (await sign_in(client)).status_code == 401
    assert await admin.fetchval("select count(*) from api_keys") == 1


async def test_a_new_password_ends_a_session_that_begins_at_that_moment(
    app: Starlette, tenant: UUID, ann: UUID, admin: Any, database_url: str
) -> None:
    stored = await admin.fetchval("select password_hash from users where id = $1", ann)
    rival = await asyncpg.connect(database_url)
    try:
        async with rival.transaction():
            begun = await rival.fetch(
                sql("add_session", "engine"),
                new_id(), tenant, ann, b"hash", "shown", 100.0, None, MAX_SESSIONS, stored,
            )  # fmt: skip
            assert len(begun) == 1
            changing = asyncio.create_task(set_password(app.state.database, ann, HASHED))
            waiting = "select exists (select from pg_locks where not granted)"
            await wait_until(lambda: admin.fetchval(waiting), "the change waits")
        assert await changing == 1
    finally:
        await rival.close()
    assert await admin.fetchval("select revoked_at is not null from api_keys")


async def test_the_loop_goes_on_while_passwords_are_tried() -> None:
    passwords = Passwords()
    slowest_s, is_over = 0.0, False

    async def watch() -> None:
        nonlocal slowest_s
        while not is_over:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            slowest_s = max(slowest_s, time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    began_all = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(passwords.is_right(HASHED, PASSWORD)) for _ in range(MAX_WAITING)
        ]
        leaves = group.create_task(asyncio.sleep(0))
    took_s = time.perf_counter() - began_all
    assert leaves.done()
    is_over = True
    await watching
    passwords.close()
    assert all(task.result() for task in tasks)
    assert slowest_s < took_s / 3


async def test_too_many_passwords_at_once_are_refused(app: Starlette, ann: UUID) -> None:
    app.state.sign_in._passwords._under_way = MAX_WAITING
    async with browser(app) as client:
        answer = await sign_in(client)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        app.state.sign_in._passwords._under_way = 0
        assert (await sign_in(client)).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {}, {"email": "a"}, {"password": "b"}, {"email": "", "password": "b"},
        {"email": "a" * 321, "password": "b"}, {"email": "a", "password": "b" * 1025},
        {"email": 1, "password": "b"}, {"email": "a", "password": ["b"]},
        {"email": "a", "password": "b", "organization": 1},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_sign_in(app: Starlette, body: dict[str, Any]) -> None:
    async with browser(app) as client:
        answer = await client.post(LOGIN, json=body)
        assert answer.status_code == 422
        assert all(set(item) == {"loc", "msg", "type"} for item in answer.json()["detail"])
        assert '"input"' not in answer.text
