"""Deleting one thread or many: what counts, what is cancelled first, what is gone afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from starlette.applications import Starlette

from shared.errors import PostgresUnavailable
from shared.ids import new_id
from shared.service import threads as threads_module
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User

URL = "/threads/bulk-delete"
ENDLESS = {"script": {"deltas": 5, "intervalMs": 0, "hangAfter": 2}}


async def delete(user: User, body: Any) -> int:
    answered = await user.post(URL, json=body)
    assert answered.status_code == 200, answered.text
    assert list(answered.json()) == ["deletedCount"]
    count: int = answered.json()["deletedCount"]
    return count


async def ids(user: User) -> set[str]:
    return {item["id"] for item in (await user.get("/threads?limit=100")).json()["items"]}


@pytest.mark.parametrize(
    "body",
    [{}, {"all": False}, {"threadIds": []}, {"threadIds": None}, {"all": False, "threadIds": []}],
)
async def test_nothing_asked_nothing_deleted(user: User, body: Any) -> None:
    thread = await user.thread()
    assert await delete(user, body) == 0
    assert (await user.post(URL)).json() == {"deletedCount": 0}
    assert await ids(user) == {thread}


async def test_only_own_existing_threads_count(user: User, add_user: AddUser) -> None:
    colleague, stranger = await add_user(user.tenant_id), await add_user()
    mine = [await user.thread() for _ in range(4)]
    theirs = [await colleague.thread(), await stranger.thread()]
    await user.delete(f"/threads/{mine[3]}")
    asked = [mine[0], mine[0].upper(), mine[1].replace("-", ""), mine[3], *theirs, str(new_id())]
    assert await delete(user, {"threadIds": asked}) == 2
    assert await ids(user) == {mine[2]}
    assert await delete(user, {"threadIds": asked}) == 0
    assert await ids(colleague) == {theirs[0]}
    assert await ids(stranger) == {theirs[1]}


async def test_all_are_the_callers(user: User, add_user: AddUser) -> None:
    colleague = await add_user(user.tenant_id)
    kept = await colleague.thread()
    for _ in range(103):
        await user.thread()
    assert await delete(user, {"all": True, "threadIds": []}) == 103
    assert await delete(user, {"all": True}) == 0
    assert await ids(user) == set()
    assert await ids(colleague) == {kept}


@pytest.mark.parametrize(
    ("body", "loc", "type_"),
    [
        ({"all": True, "threadIds": [str(new_id())]}, ["body", "threadIds"], "value_error"),
        ({"threadIds": [str(new_id())] * 101}, ["body", "threadIds"], "too_long"),
        ({"threadIds": ["x"]}, ["body", "threadIds", 0], "uuid_parsing"),
        ({"threadIds": [str(new_id()), 7]}, ["body", "threadIds", 1], "uuid_type"),
        ({"threadIds": "x"}, ["body", "threadIds"], "list_type"),
        ({"all": 1}, ["body", "all"], "bool_type"),
        ({"all": "true"}, ["body", "all"], "bool_type"),
        ({"all": None}, ["body", "all"], "bool_type"),
    ],
)
async def test_what_is_refused(user: User, body: Any, loc: list[Any], type_: str) -> None:
    thread = await user.thread()
    refused = await user.post(URL, json=body)
    assert refused.status_code == 422
    assert [(item["loc"], item["type"]) for item in refused.json()["detail"]] == [(loc, type_)]
    assert await ids(user) == {thread}


async def test_what_is_active_is_cancelled_first(
    user: User, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    threads = [await user.thread() for _ in range(3)]
    running = (await user.submit(threads[0], settings=ENDLESS)).json()
    queued = [(await user.submit(threads[0])).json() for _ in range(2)]
    kept = (await user.submit(threads[2], settings=ENDLESS)).json()
    await is_running(user, running, kept)
    assert await delete(user, {"threadIds": threads[:2]}) == 2
    ended = [turn["id"] for turn in (running, *queued)]
    rows = await admin.fetch("select status from turns where id = any($1)", ended)
    assert [row["status"] for row in rows] == ["cancelled"] * 3
    for turn in ended:
        assert (await user.get(f"/turns/{turn}")).status_code == 404
        assert (await user.get(f"/turns/{turn}/events")).status_code == 404
        assert (await user.post(f"/turns/{turn}/cancel")).status_code == 404
    assert (await user.get(f"/turns/{kept['id']}")).json()["status"] == "running"
    assert {t["id"] for t in (await user.get("/turns")).json()["items"]} == {kept["id"]}


async def is_running(user: User, *turns: dict[str, Any]) -> None:
    async def are_running() -> bool:
        got = [await user.get(f"/turns/{turn['id']}") for turn in turns]
        return all(answer.json()["status"] == "running" for answer in got)

    await wait_until(are_running, "the turns run")


@pytest.mark.parametrize("how", ["one", "many", "all"])
async def test_an_open_stream_ends_with_abort(
    user: User, start_worker: StartWorker, how: str
) -> None:
    await start_worker()
    thread = await user.thread()
    url = f"/threads/{thread}/turns/stream"
    body = {"message": "x", "modelId": "scripted", "settings": ENDLESS}
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        streaming = group.create_task(user.post(url, json=body))

        async def has_begun() -> Any:
            turns = (await user.get(f"/threads/{thread}/turns")).json()["items"]
            return turns if turns and turns[0]["status"] == "running" else None

        (turn,) = await wait_until(has_begun, "the turn runs")
        if how == "one":
            assert (await user.delete(f"/threads/{thread}")).status_code == 204
        else:
            wanted = {"all": True} if how == "all" else {"threadIds": [thread]}
            assert await delete(user, wanted) == 1
    frames = streaming.result().text.split("\n\n")
    assert '{"type":"abort","reason":"cancelled"}' in frames[-4]
    assert frames[-2] == "data: [DONE]"
    assert (await user.get(f"/turns/{turn['id']}")).status_code == 404


async def test_it_is_all_or_nothing(
    app: Starlette, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that keeps coming in one thread: none of the others is deleted."""
    threads = [await user.thread() for _ in range(3)]

    async def is_accepted() -> bool:
        return (await user.submit(threads[1])).status_code == 202

    async def submit_instead(principal: Any, turn_ids: Any) -> None:
        await wait_until(is_accepted, "a turn is accepted")

    await submit_instead(None, None)
    monkeypatch.setattr(app.state.threads, "_cancel_active", submit_instead)
    refused = await user.post(URL, json={"threadIds": threads})
    assert refused.status_code == 409
    assert await ids(user) == set(threads)


async def test_two_at_once_count_each_thread_once(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    threads = [await user.thread() for _ in range(20)]
    for thread in threads[:5]:
        await user.submit(thread, settings=ENDLESS)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(delete(user, body))
            for body in ({"all": True}, {"threadIds": threads}, {"threadIds": threads[::-1]})
        ]
    assert sum(task.result() for task in tasks) == 20
    assert await ids(user) == set()


@pytest.fixture
async def rival(database_url: str) -> AsyncIterator[Any]:
    """A transaction under way on a connection of its own."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        yield connection
    await connection.close()


async def test_all_are_hidden_in_commits_of_their_own(
    user: User, rival: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "_DELETE_PAGE", 5)
    threads = [await user.thread() for _ in range(12)]
    await rival.execute("select from threads where id = $1 for update", UUID(threads[11]))
    stopped = await user.post(URL, json={"all": True})
    assert stopped.status_code == 503
    assert stopped.headers["retry-after"]
    assert await ids(user) == set(threads[10:]), "what came before the locked one is done"
    await rival.execute("commit; begin")
    assert await delete(user, {"all": True}) == 2


async def test_all_ends_where_threads_keep_coming(
    app: Starlette, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "_DELETE_PAGE", 2)
    delete_page = app.state.threads._delete_page
    made: set[str] = set()

    async def come_meanwhile(*args: Any) -> Any:
        made.add(await user.thread())
        return await delete_page(*args)

    monkeypatch.setattr(app.state.threads, "_delete_page", come_meanwhile)
    for _ in range(3):
        await user.thread()
    assert await delete(user, {"all": True}) == 3
    assert await ids(user) == made


@pytest.mark.parametrize("everything", [False, True])
async def test_turns_that_do_not_end_are_not_cancelled_without_end(
    app: Starlette, user: User, everything: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "_CANCEL_PAGE", 2)
    asked: list[UUID] = []

    async def do_nothing(_: Any, turn_id: UUID) -> None:
        asked.append(turn_id)

    monkeypatch.setattr(app.state.threads._cancels, "cancel", do_nothing)
    thread = await user.thread()
    turns = {UUID((await user.submit(thread)).json()["id"]) for _ in range(5)}
    body = {"all": True} if everything else {"threadIds": [thread]}
    async with asyncio.timeout(20):
        refused = await user.post(URL, json=body)
    assert refused.status_code == 409
    tries = threads_module._DELETE_TRIES + everything
    assert {turn: asked.count(turn) for turn in asked} == dict.fromkeys(turns, tries)


async def test_a_postgres_that_goes_away_while_turns_are_cancelled_is_a_503(
    app: Starlette, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def vanish(*_: Any) -> None:
        raise PostgresUnavailable

    monkeypatch.setattr(app.state.threads._cancels, "cancel", vanish)
    thread = await user.thread()
    await user.submit(thread)
    assert (await user.post(URL, json={"threadIds": [thread]})).status_code == 503
