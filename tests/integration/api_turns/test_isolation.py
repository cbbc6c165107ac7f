"""What is somebody else's looks as if it did not exist, also to a colleague in the same tenant."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from shared.ids import new_id
from tests.integration.api_turns.conftest import AddUser, User

OF_THREAD: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {"title": "x"}),
    ("DELETE", "", None),
    ("GET", "/messages", None),
    ("GET", "/turns", None),
    ("GET", "/stream", None),
    ("POST", "/turns", {"message": "x"}),
    ("POST", "/turns", {"message": "x", "onConflict": "reject"}),
    ("POST", "/turns/stream", {"message": "x"}),
    ("POST", "/turns/stream", {"message": "x", "onConflict": "reject"}),
    ("POST", "/turns/cancel", {"partialText": "x"}),
]
OF_TURN: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("GET", "/events", None),
    ("GET", "/events?after=1-1", None),
    ("POST", "/cancel", {"partialText": "x"}),
]


def all_of(answered: httpx.Response) -> tuple[Any, ...]:
    return answered.status_code, answered.headers.multi_items(), answered.content


@pytest.fixture(params=["same tenant", "another tenant"])
async def stranger(request: pytest.FixtureRequest, add_user: AddUser, user: User) -> User:
    return await add_user(user.tenant_id if request.param == "same tenant" else None)


async def test_foreign_ids_answer_as_unknown_ones_do(user: User, stranger: User) -> None:
    thread_id = await user.thread()
    turn = (await user.submit(thread_id)).json()
    for routes, place, theirs in (
        (OF_THREAD, "threads", thread_id),
        (OF_TURN, "turns", turn["id"]),
    ):
        for method, rest, body in routes:
            foreign = await stranger.request(method, f"/{place}/{theirs}{rest}", json=body)
            unknown = await stranger.request(method, f"/{place}/{new_id()}{rest}", json=body)
            assert foreign.status_code == 404, (method, rest)
            assert all_of(foreign) == all_of(unknown), (method, rest)
    assert (await user.get(f"/turns/{turn['id']}")).json() == turn
    assert (await user.get(f"/threads/{thread_id}")).json()["title"] == "x"


async def test_nobody_can_wait_on_or_block_the_key_of_a_foreign_thread(
    user: User, stranger: User
) -> None:
    thread_id = await user.thread()
    await user.submit(thread_id)
    own = await stranger.thread()
    for key in (f"thread:{thread_id}", "thread:", f"thread:{own} "):
        for policy in ("enqueue", "reject"):
            refused = await stranger.submit(own, concurrencyKey=key, onConflict=policy)
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"] == ["body", "concurrencyKey"]
    assert (await stranger.submit(own, concurrencyKey=f"thread:{own}")).status_code == 202


async def test_a_conflict_names_the_active_turn_only_to_its_owner(
    user: User, add_user: AddUser
) -> None:
    colleague = await add_user(user.tenant_id)
    turn = (await user.submit(await user.thread(), concurrencyKey="crm")).json()
    wish = {"concurrencyKey": "crm", "onConflict": "reject"}
    own = await user.submit(await user.thread(), **wish)
    assert (own.status_code, own.json()["turnId"]) == (409, turn["id"])
    foreign = await colleague.submit(await colleague.thread(), **wish)
    assert foreign.status_code == 409
    assert turn["id"] not in foreign.text


async def test_a_key_means_something_else_to_everybody(user: User, stranger: User) -> None:
    ids = set()
    for one in (user, stranger):
        answered = await one.submit(await one.thread(), idempotencyKey="k")
        assert "idempotency-replayed" not in answered.headers
        ids.add(answered.json()["id"])
    assert len(ids) == 2
