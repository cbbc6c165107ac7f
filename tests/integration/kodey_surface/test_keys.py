"""Who may ask for what: secret keys, publishable keys, and everybody else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from api.kodey.dialect import NEEDS_SECRET_KEY
from shared.ids import new_id
from shared.service.accounts import create_api_key
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.fixtures.system import StartWorker
from tests.integration.kodey_surface.conftest import (
    PRIMARY,
    RATES,
    AddMember,
    Client,
    Member,
    new_secret,
)

UNAUTHORIZED = {"message": "Unauthorized: Invalid API key."}


async def chats_of(client: Client, **query: str) -> list[str]:
    answered = await client.get("/chat", params=query)
    assert answered.status_code == 200, answered.text
    return [chat["id"] for chat in answered.json()["chats"]]


async def test_both_headers_carry_a_key(member: Member) -> None:
    for client in (member.secret, member.publishable):
        bearer = {"authorization": f"Bearer {client.secret}", "x-api-key": ""}
        del client.headers["x-api-key"]
        assert (await client.get("/chat", headers=bearer)).status_code == 200
        assert (await client.get("/chat")).status_code == 401
        assert (await client.get("/chat", headers={"X-Api-Key": client.secret})).status_code == 200


async def test_a_cookie_is_no_key_and_no_failure(app: Starlette, member: Member) -> None:
    app.state.failed_credentials._limit = 1
    async with Client(app, "") as client:
        del client.headers["x-api-key"]
        for _ in range(3):
            answered = await client.get("/chat", headers={"cookie": "vai_token=vai_ses_x"})
            assert (answered.status_code, answered.json()) == (401, UNAUTHORIZED)


async def test_a_publishable_key_reaches_only_what_was_made_with_it(
    app: Starlette, add_member: AddMember, member: Member, settings: Settings
) -> None:
    own = await member.publishable.chat()
    colleague = await add_member(member.tenant_id)
    another = Client(
        app,
        await new_secret(
            app.state.database,
            settings,
            member.tenant_id,
            member.user_id,
            CredentialKind.KODEY_PUBLISHABLE,
        ),
    )
    foreign = [
        await member.secret.chat(userId="u"),
        await another.chat(userId="u"),
        await colleague.publishable.chat(userId="u"),
        str((await member.primary.post(f"{PRIMARY}/threads")).json()["id"]),
    ]
    public = member.publishable
    assert await chats_of(public) == [own]
    assert await chats_of(public, userId="u") == []
    assert await chats_of(public, agentType="primary") == [own]
    for chat_id in foreign:
        assert (await public.get(f"/chat/{chat_id}")).status_code == 404
        assert (await public.get(f"/chat/{chat_id}/message")).status_code == 404
        assert (await public.say(chat_id, "x")).status_code == 404
        assert (await public.delete(f"/chat/{chat_id}")).status_code == 404
    # The team's backend sees them all, but for a colleague's own threads.
    assert set(await chats_of(member.secret)) == {own, *foreign}
    assert set(await chats_of(colleague.secret)) == {own, *foreign[:3]}
    assert (await public.delete(f"/chat/{own}")).status_code == 204
    await another.aclose()


async def test_a_team_shares_its_chats_and_nothing_else(
    member: Member, add_member: AddMember, start_worker: StartWorker
) -> None:
    await start_worker()
    colleague = await add_member(member.tenant_id)
    chat_id = await member.secret.chat()
    answered = await colleague.secret.say(chat_id, "Hello")
    assert answered.status_code == 200
    assert len(await member.secret.said(chat_id)) == 2
    # It is its owner's on the primary surface, and nobody else's there.
    assert (await member.primary.get(f"{PRIMARY}/threads/{chat_id}")).status_code == 200
    assert (await colleague.primary.get(f"{PRIMARY}/threads/{chat_id}")).status_code == 404
    private = (await member.primary.post(f"{PRIMARY}/threads")).json()["id"]
    got = await member.secret.get(f"/chat/{private}")
    assert got.status_code == 200, "the key owner's own"
    assert UUID(got.json()["agentId"]).version, "the default answers in it"
    assert (await colleague.secret.get(f"/chat/{private}")).status_code == 404
    assert (await colleague.secret.delete(f"/chat/{chat_id}")).status_code == 204
    assert (await member.primary.get(f"{PRIMARY}/threads/{chat_id}")).status_code == 404


async def test_a_shared_thread_without_an_agent_is_no_chat_of_the_team(
    member: Member, add_member: AddMember, admin: Any
) -> None:
    colleague = await add_member(member.tenant_id)
    thread_id = (await member.primary.post(f"{PRIMARY}/threads")).json()["id"]
    await admin.execute("update threads set visibility = 'shared' where id = $1", UUID(thread_id))
    assert (await colleague.secret.get(f"/chat/{thread_id}")).status_code == 404
    assert await chats_of(colleague.secret) == []
    chat_id = await member.secret.chat()
    await admin.execute("update threads set is_transient = true where id = $1", UUID(chat_id))
    assert await chats_of(colleague.secret) == []
    assert (await member.secret.get(f"/chat/{chat_id}")).status_code == 404


FOREIGN: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("GET", "/message", None),
    ("POST", "/message", {"content": "x"}),
]


@pytest.mark.parametrize("who", ["another team", "a colleague", "another key"])
async def test_foreign_ids_answer_as_unknown_ones(
    member: Member, add_member: AddMember, who: str
) -> None:
    intruder = await add_member(None if who == "another team" else member.tenant_id)
    client = intruder.publishable if who == "another key" else intruder.secret
    if who == "a colleague":
        theirs = (await member.primary.post(f"{PRIMARY}/threads")).json()["id"]
    else:
        theirs = await member.secret.chat()
    for method, rest, body in FOREIGN:
        told = []
        for chat_id in (theirs, new_id(), "nonsense", theirs.upper(), "%00"):
            answered = await client.request(method, f"/chat/{chat_id}{rest}", json=body)
            assert answered.status_code == 404, (method, rest)
            headers = [pair for pair in answered.headers.multi_items() if pair[0] not in RATES]
            told.append((headers, answered.content))
        assert all(one == told[0] for one in told), (method, rest)
    assert (await member.secret.get(f"/chat/{theirs}")).status_code == 200


class TestStrict:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"kodey_publishable_strict": True}

    async def test_publishable_keys_neither_list_nor_delete(self, member: Member) -> None:
        chat_id = await member.publishable.chat()
        for refused in (
            await member.publishable.get("/chat"),
            await member.publishable.delete(f"/chat/{chat_id}"),
        ):
            assert (refused.status_code, refused.json()) == (403, NEEDS_SECRET_KEY)
            assert refused.headers["access-control-allow-origin"] == "*"
        assert (await member.publishable.get(f"/chat/{chat_id}")).status_code == 200
        assert (await member.publishable.get(f"/chat/{chat_id}/message")).status_code == 200
        assert (await member.secret.get("/chat")).status_code == 200
        assert (await member.secret.delete(f"/chat/{chat_id}")).status_code == 204


class TestRates:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"kodey_publishable_per_minute": 2, "kodey_secret_per_minute": 3}

    async def test_each_key_is_counted_by_its_kind(
        self, app: Starlette, member: Member, settings: Settings
    ) -> None:
        for client, most in ((member.publishable, 2), (member.secret, 3)):
            for left in reversed(range(most)):
                path = "/chat" if left else f"/chat/{new_id()}"  # an error is told the same
                answered = await client.get(path)
                assert answered.headers["x-ratelimit-limit"] == str(most)
                assert answered.headers["x-ratelimit-remaining"] == str(left)
                assert int(answered.headers["x-ratelimit-reset"]) > 1_700_000_000
                assert len(answered.headers.get_list("x-ratelimit-limit")) == 1
            refused = await client.get("/chat")
            retry_after_s = int(refused.headers["retry-after"])
            assert (refused.status_code, refused.json()) == (
                429,
                {
                    "error": "Too Many Requests",
                    "message": f"Rate limit exceeded. Please retry after {retry_after_s} seconds.",
                    "retryAfter": retry_after_s,
                },
            )
            assert 20 <= retry_after_s <= 30
            assert refused.headers["x-ratelimit-remaining"] == "0"
        other = await create_api_key(
            app.state.database,
            tenant_id=member.tenant_id,
            user_id=member.user_id,
            name="other",
            pepper=settings.key_pepper.get_secret_value().encode(),
            kind=CredentialKind.KODEY_PUBLISHABLE,
        )
        again = await member.publishable.get("/chat", headers={"x-api-key": other})
        assert again.status_code == 200, "a key counts alone"

    async def test_who_is_unknown_is_told_what_counts_for_them(self, member: Member) -> None:
        for left in (119, 118):
            answered = await member.secret.get("/chat", headers={"x-api-key": "sk_live_x"})
            assert answered.status_code == 401
            assert answered.headers["x-ratelimit-limit"] == "120"
            assert answered.headers["x-ratelimit-remaining"] == str(left)
        absent = await member.secret.get("/chat/a/b/c")
        assert absent.headers["x-ratelimit-remaining"] == "118"


class TestBesideTheLimitOfAll:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"rate_limit_per_minute": 7}

    async def test_headers_are_told_once(self, member: Member) -> None:
        answered = await member.secret.get("/chat")
        assert answered.headers.get_list("x-ratelimit-limit") == ["1000"]
        answered = await member.primary.get(f"{PRIMARY}/threads")
        assert answered.headers.get_list("x-ratelimit-limit") == ["7"]


class TestWithoutLimitsOfTheirOwn:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"rate_limit_per_minute": 7, "kodey_secret_per_minute": 0}

    async def test_keys_are_counted_as_all_credentials_and_told_so_once(
        self, member: Member
    ) -> None:
        for path in ("/chat", "/chat/a"):
            answered = await member.secret.get(path)
            assert [answered.headers.get_list(name)[1:] for name in RATES] == [[], [], []]
            assert answered.headers["x-ratelimit-limit"] == "7"


class TestWithoutAnyLimit:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"rate_limit_per_minute": 0, "kodey_secret_per_minute": 0}

    async def test_who_is_known_is_told_no_rate(self, member: Member) -> None:
        for path in ("/chat", f"/chat/{new_id()}"):
            answered = await member.secret.get(path)
            assert not set(RATES) & set(answered.headers)
        unknown = await member.secret.get("/chat", headers={"x-api-key": "sk_live_x"})
        assert unknown.headers["x-ratelimit-limit"] == "120"
