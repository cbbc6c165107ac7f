"""The short way answers with the same bytes as the ordinary one, and leaves it what it must."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.chat.fast_get_turn import FastGetTurn
from shared.errors import PostgresUnavailable
from shared.ids import new_id
from tests.integration.api_turns.conftest import AddUser, User


@pytest.fixture
def fast_answers(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the fast Get Turn has returned so far: a status, or None when it passed on."""
    answers: list[int | None] = []
    fast = app.state.fast_get_turn

    async def answer(*args: Any) -> int | None:
        answers.append(await fast(*args))
        return answers[-1]

    monkeypatch.setattr(app.state, "fast_get_turn", answer)
    return answers


async def both(user: User, path: str, **headers: str) -> tuple[httpx.Response, httpx.Response]:
    """The answer of the short way, and of the ordinary one, to the same question."""
    slow = await user.get(path, headers={**headers, "prefer": "respond-async"})
    return await user.get(path, headers=headers), slow


def parts(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    return response.status_code, dict(response.headers), response.content


async def test_both_ways_answer_with_the_same_bytes(
    user: User, fast_answers: list[int | None]
) -> None:
    turn = (await user.submit(await user.thread())).json()
    path = f"/turns/{turn['id']}"
    for _ in range(2):  # rendered, and from what was kept
        fast, slow = await both(user, path)
        assert fast.status_code == 200
        assert parts(fast) == parts(slow)
    assert fast_answers == [None, 200, None, 200]
    fast, slow = await both(user, path, **{"if-none-match": fast.headers["etag"]})
    assert fast.status_code == 304
    assert parts(fast) == parts(slow)
    assert fast_answers[-1] == 304


async def test_a_kept_answer_is_not_shown_once_the_turn_has_changed(
    user: User, fast_answers: list[int | None]
) -> None:
    turn = (await user.submit(await user.thread())).json()
    path = f"/turns/{turn['id']}"
    await user.get(path)
    before = await user.get(path)
    assert before.json()["status"] == "pending"
    await user.post(f"{path}/cancel")
    after = await user.get(path, headers={"if-none-match": before.headers["etag"]})
    assert after.json()["status"] == "cancelled"
    assert (await user.get(path)).json()["status"] == "cancelled"
    assert fast_answers[-1] == 200


async def test_nobody_sees_what_was_kept_for_another(
    user: User, add_user: AddUser, fast_answers: list[int | None]
) -> None:
    turn = (await user.submit(await user.thread())).json()
    path = f"/turns/{turn['id']}"
    for other in (await add_user(), await add_user(tenant_id=user.tenant_id)):
        await other.get(f"/turns/{new_id()}")  # its key is known from here on
        assert (await user.get(path)).status_code == 200
        unknown, foreign = await other.get(f"/turns/{new_id()}"), await other.get(path)
        assert parts(foreign) == parts(unknown)
        assert foreign.status_code == 404
        assert fast_answers[-1] is None


async def test_a_turn_of_a_deleted_thread_is_gone_at_once(
    user: User, fast_answers: list[int | None]
) -> None:
    thread_id = await user.thread()
    turn = (await user.submit(thread_id)).json()
    assert (await user.get(f"/turns/{turn['id']}")).status_code == 200
    assert (await user.delete(f"/threads/{thread_id}")).status_code == 204
    assert (await user.get(f"/turns/{turn['id']}")).status_code == 404


@pytest.mark.parametrize(
    "text",
    [
        "x" * 36,
        "{0192d3b4-7c1a-7a70-8000-0000000000}",
        "0" * 36,
        "-0192d3b47c1a7a7080000000000000ff---",
    ],
)
async def test_an_id_that_is_none_is_told_the_ordinary_way(user: User, text: str) -> None:
    await user.get(f"/turns/{new_id()}")
    fast, slow = await both(user, f"/turns/{text}")
    assert parts(fast) == parts(slow)
    assert fast.status_code == 422


async def test_a_defect_in_a_hot_operation_is_told_in_our_dialect(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    thread_id = await user.thread()
    monkeypatch.setattr(app.state.turns, "submit", fail)
    answered = await user.submit(thread_id)
    assert (answered.status_code, answered.json()["title"]) == (500, "Internal Server Error")


async def test_postgres_away_is_told_in_our_dialect(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise PostgresUnavailable("away")

    turn = (await user.submit(await user.thread())).json()
    monkeypatch.setattr(app.state.database, "_call", fail)
    answered = await user.get(f"/turns/{turn['id']}")
    assert (answered.status_code, answered.headers["retry-after"]) == (503, "2")


async def test_two_credentials_are_refused_also_when_the_first_is_empty(
    user: User, fast_answers: list[int | None]
) -> None:
    turn = (await user.submit(await user.thread())).json()
    path = f"/turns/{turn['id']}"
    assert (await user.get(path)).status_code == 200
    good = user.headers.pop("authorization")
    twice = [("authorization", ""), ("authorization", good)]
    assert (await user.get(path, headers=twice)).status_code == 401
    assert fast_answers == [200, None]


async def test_a_defect_in_the_fast_answer_leaves_it_to_the_ordinary_way(
    user: User, monkeypatch: pytest.MonkeyPatch, fast_answers: list[int | None]
) -> None:
    turn = (await user.submit(await user.thread())).json()

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FastGetTurn, "_render", fail)
    assert (await user.get(f"/turns/{turn['id']}")).json()["id"] == turn["id"]
    assert fast_answers == [None]
