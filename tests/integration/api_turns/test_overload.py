"""What is refused when there is too much, and what never is. A refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.admission import RateLimit
from api.app import Application, create_app
from shared.service import turns as turns_module
from shared.service.backlog import BacklogCounter, Limits
from shared.settings import Settings
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User

LIMITS = {"max_queued_per_key": 3, "max_queued_per_tenant": 5, "max_queued": 7}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=LIMITS)


@pytest.fixture(autouse=True)
def counts_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter's own pace would let a test's turns be seen at any moment."""

    async def never(self: BacklogCounter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(BacklogCounter, "run", never)


Count = Callable[[], Awaitable[float]]


@pytest.fixture
async def count(app: Starlette) -> Count:
    """Counts what waits, as the counter does about once a second."""
    backlog = app.state.turns._backlog
    counter = BacklogCounter(app.state.database, backlog, app.state.metrics)
    await counter.count()
    return counter.count


async def written(admin: Any) -> list[int]:
    """Rows of every table that an accept writes."""
    tables = ("turns", "messages", "idempotency_keys", "outbox")
    return [await admin.fetchval(f"select count(*) from {table}") for table in tables]  # noqa: S608


def refusals(app: Starlette, reason: str) -> float:
    labels = {"reason": reason}
    return app.state.metrics.registry.get_sample_value("turnkeep_refusals_total", labels) or 0.0


def assert_refused(answered: httpx.Response, status: int, detail: str) -> None:
    assert answered.status_code == status
    titles = {429: "Too Many Requests", 503: "Service Unavailable"}
    assert answered.json() == {
        "detail": detail, "title": titles[status], "status": status, "type": "about:blank"
    }  # fmt: skip
    assert 1 <= int(answered.headers["retry-after"]) <= 60


@pytest.mark.parametrize("way", ["turns", "turns/stream"])
async def test_a_full_line_is_refused_and_another_is_not(
    app: Starlette, user: User, admin: Any, count: Count, way: str
) -> None:
    thread = await user.thread()
    for number in range(3):
        assert (await user.submit(thread)).status_code == 202
        if number == 1:
            await count()
    before = await written(admin)
    answered = await user.post(f"/threads/{thread}/{way}", json={"message": "x"})
    assert_refused(answered, 429, "Too many turns wait under this concurrency key")
    assert await written(admin) == before
    assert refusals(app, "queue_key") == 1
    assert app.state.admission.streams.open == 0
    assert (await user.submit(await user.thread())).status_code == 202


async def test_a_full_tenant_is_refused_and_another_is_not(
    app: Starlette, user: User, add_user: AddUser, admin: Any, count: Count
) -> None:
    for _ in range(5):
        assert (await user.submit(await user.thread())).status_code == 202
    colleague = await add_user(user.tenant_id)
    before = await written(admin)
    answered = await colleague.submit(await colleague.thread())
    assert_refused(answered, 429, "Too many turns of this tenant wait")
    assert await written(admin) == before
    stranger = await add_user()
    for _ in range(2):
        assert (await stranger.submit(await stranger.thread())).status_code == 202
    answered = await stranger.submit(await stranger.thread())
    assert_refused(answered, 429, "Too many turns wait")
    assert refusals(app, "queue_all") == 1


async def test_turns_of_other_processes_are_seen_with_the_next_count(
    settings: Settings, user: User, count: Count
) -> None:
    thread = await user.thread()
    other = create_app(settings)
    async with other.router.lifespan_context(other):
        elsewhere = User(other, user.tenant_id, user.headers["authorization"].split()[1])
        for _ in range(3):
            assert (await elsewhere.submit(thread)).status_code == 202
        await elsewhere.aclose()
    await count()
    assert (await user.submit(thread)).status_code == 429


async def test_there_is_room_again_once_turns_have_left(user: User, count: Count) -> None:
    thread = await user.thread()
    turns = [(await user.submit(thread)).json() for _ in range(3)]
    assert (await user.submit(thread)).status_code == 429
    assert (await user.post(f"/turns/{turns[2]['id']}/cancel")).status_code == 200
    await count()
    assert (await user.submit(thread)).status_code == 202


async def test_a_replay_is_answered_although_the_queue_is_full(
    user: User, admin: Any, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await user.thread()
    turns = [(await user.submit(thread, idempotencyKey=f"k{n}")).json() for n in range(3)]
    before = await written(admin)
    again = await user.submit(thread, idempotencyKey="k1")
    assert (again.status_code, again.json()["id"]) == (202, turns[1]["id"])
    assert again.headers["idempotency-replayed"] == "true"
    changed = await user.submit(thread, idempotencyKey="k1", systemPrompt="another")
    assert changed.status_code == 422
    assert (await user.submit(thread, idempotencyKey="new")).status_code == 429
    assert await written(admin) == before
    # A refusal costs no query when enough of them are under way.
    monkeypatch.setattr(turns_module, "MAX_REPLAYS_SOUGHT", 0)
    assert (await user.submit(thread, idempotencyKey="k1")).status_code == 429


async def test_a_refused_request_may_be_sent_again_under_its_key(user: User, count: Count) -> None:
    thread = await user.thread()
    turns = [(await user.submit(thread)).json() for _ in range(3)]
    assert (await user.submit(thread, idempotencyKey="k")).status_code == 429
    await user.post(f"/turns/{turns[0]['id']}/cancel")
    await count()
    answered = await user.submit(thread, idempotencyKey="k")
    assert answered.status_code == 202
    assert "idempotency-replayed" not in answered.headers


async def test_who_would_wait_past_the_deadline_is_told_so(
    app: Starlette, user: User, admin: Any, count: Count
) -> None:
    backlog = app.state.turns._backlog
    backlog.limits = Limits(0, 0, 0, deadline_s=10.0)
    thread = await user.thread()
    for _ in range(3):
        await user.submit(thread)
    await count()
    backlog.outflow.per_s = 0.2
    before = await written(admin)
    answered = await user.submit(thread)
    assert_refused(answered, 503, "The turn would not be started within its queue time")
    assert await written(admin) == before
    assert refusals(app, "wait") == 1


async def test_a_saturated_process_refuses_before_it_reads(
    app: Starlette, user: User, admin: Any
) -> None:
    thread = await user.thread()
    turn = (await user.submit(thread)).json()
    before = await written(admin)
    app.state.admission._pressure.commit_wait.is_high = True
    app.state.admission._pressure.commit_wait.value = 1e9
    for way in ("turns", "turns/stream"):
        answered = await user.post(f"/threads/{thread}/{way}", content=b"no JSON at all")
        assert_refused(answered, 503, "The service is at its limit")
    assert await written(admin) == before
    assert refusals(app, "commit_wait") == 2
    await assert_vital(app, user, turn["id"])


async def assert_vital(app: Starlette, user: User, turn_id: str) -> None:
    """What is never refused."""
    assert (await user.get(f"/turns/{turn_id}")).status_code == 200
    assert (await user.get(f"/turns/{turn_id}")).status_code == 200  # the fast way
    assert (await user.get(f"/turns/{turn_id}", headers={"prefer": "wait=0"})).status_code == 200
    assert (await user.post(f"/turns/{turn_id}/cancel")).status_code == 200
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as anybody:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await anybody.get(path)).status_code == 200


# -- rate


@pytest.fixture
def rated(app: Starlette) -> None:
    limit = RateLimit(5)
    assert isinstance(app, Application)
    app.state.rate_limit = limit


def told(answered: httpx.Response) -> tuple[int, int]:
    assert 0 <= int(answered.headers["x-ratelimit-reset"]) <= 60
    headers = answered.headers
    return int(headers["x-ratelimit-limit"]), int(headers["x-ratelimit-remaining"])


async def test_a_rate_is_told_on_every_answer_and_kept(
    app: Starlette, user: User, add_user: AddUser, admin: Any, rated: None
) -> None:
    created = await user.post("/threads")
    assert told(created) == (5, 4)
    thread = created.json()["id"]
    turn = await user.submit(thread)
    assert told(turn) == (5, 3)
    assert told(await user.get(f"/threads/{thread}?wrong=1")) == (5, 2)
    assert told(await user.post(f"/threads/{thread}/turns", content=b"{")) == (5, 1)
    assert told(await user.get("/turns")) == (5, 0)
    before = await written(admin)
    # Before anything about the request is looked at, and behind who asks.
    answered = await user.post("/threads/no-uuid/turns", content=b"{")
    assert_refused(answered, 429, "Rate limit exceeded")
    assert told(answered) == (5, 0)
    assert (await user.submit(thread)).status_code == 429
    assert await written(admin) == before
    wrong = await user.post("/threads", headers={"authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    assert "x-ratelimit-limit" not in wrong.headers
    assert refusals(app, "rate") == 2
    assert told(await user.get(f"/turns/{turn.json()['id']}")) == (5, 0)
    assert (await user.post(f"/threads/{thread}/turns/cancel")).status_code == 204
    await assert_vital(app, user, turn.json()["id"])
    assert (await (await add_user()).post("/threads")).status_code == 201


async def test_without_a_rate_no_header_speaks_of_one(user: User) -> None:
    assert "x-ratelimit-limit" not in (await user.post("/threads")).headers


# -- what stays open


@contextlib.asynccontextmanager
async def reading(user: User, turn_id: str) -> AsyncIterator[asyncio.Task[Any]]:
    """An open stream of a turn that waits; the test client takes it whole, at its end."""
    task = asyncio.create_task(user.get(f"/turns/{turn_id}/events", timeout=20))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_open_streams_have_a_limit_per_credential_and_in_all(
    app: Starlette, user: User, add_user: AddUser, admin: Any
) -> None:
    streams = app.state.admission.streams
    streams._most, streams._most_per_key = 2, 1
    other = await add_user()
    thread, theirs = await user.thread(), await other.thread()
    turn = (await user.submit(thread)).json()["id"]
    their_turn = (await other.submit(theirs)).json()["id"]
    before = await written(admin)
    async with reading(user, turn):
        await wait_until(lambda: streams.open == 1, "it is open")
        for answered in (
            await user.get(f"/turns/{turn}/events"),
            await user.get(f"/threads/{thread}/stream"),
            await user.post(f"/threads/{thread}/turns/stream", json={"message": "x"}),
        ):
            assert_refused(answered, 429, "Too many open streams")
        async with reading(other, their_turn):
            await wait_until(lambda: streams.open == 2, "both are open")
            third = await add_user()
            answered = await third.post(
                f"/threads/{await third.thread()}/turns/stream", json={"message": "x"}
            )
            assert_refused(answered, 503, "The service is at its limit")
            assert await written(admin) == before
            await assert_vital(app, other, their_turn)
    await wait_until(lambda: streams.open == 0, "both seats are free")
    assert streams.by_key == {}
    assert refusals(app, "streams_key") == 3
    assert refusals(app, "streams_all") == 1


async def test_a_seat_is_free_again_after_any_answer(app: Starlette, user: User) -> None:
    streams = app.state.admission.streams
    thread = await user.thread()
    turn = (await user.submit(thread)).json()["id"]
    for way, body in (("turns/stream", b"{"), ("turns/stream", b"{}")):
        assert (await user.post(f"/threads/{thread}/{way}", content=body)).status_code in {422, 415}
    assert (await user.get(f"/turns/{turn}/events?after=9-9")).status_code == 410
    await user.post(f"/turns/{turn}/cancel")
    assert (await user.get(f"/turns/{turn}/events")).status_code == 200
    assert (await user.get(f"/threads/{thread}/stream")).status_code == 204
    assert (streams.open, streams.by_key) == (0, {})


async def test_where_too_many_wait_an_answer_comes_at_once(app: Starlette, user: User) -> None:
    polls = app.state.admission.polls
    polls._most = 1
    thread = await user.thread()
    turn = (await user.submit(thread)).json()["id"]
    waiting = asyncio.create_task(
        user.get(f"/turns/{turn}", headers={"prefer": "wait=20"}, timeout=30)
    )
    await wait_until(lambda: polls.open == 1, "it waits")
    for answered in (
        await user.get(f"/turns/{turn}", headers={"prefer": "wait=20"}),
        await user.post(
            f"/threads/{thread}/turns", json={"message": "x"}, headers={"prefer": "wait=20"}
        ),
    ):
        assert answered.json()["status"] == "pending"
        assert "preference-applied" not in answered.headers
        assert 1 <= int(answered.headers["retry-after"]) <= 5
    await user.post(f"/turns/{turn}/cancel")
    ended = await waiting
    assert ended.json()["status"] == "cancelled"
    assert ended.headers["preference-applied"] == "wait=20"
    assert polls.open == 0
    assert refusals(app, "polls") == 2
