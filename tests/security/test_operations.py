"""The matrix, cell by cell: one plain request each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.postgres.pool import Database
from tests.security.conftest import Target, Unharmed
from tests.security.credentials import ACCEPTED, bearer
from tests.security.matrix import APPLYING, CELLS, COLUMNS, Cell, summary
from tests.security.routes import BY_SESSION_ALONE, CHAT, ROUTES, Place
from tests.security.wire import require_problem, send

ACTIONS = f"POST {CHAT}/turns/{{turn_id}}/actions"


def test_no_route_is_missing() -> None:
    """That `ROUTES` are the application's, all of them, is asserted in `test_matrix.py`."""
    assert len(CELLS) == len(ROUTES) * len(COLUMNS)
    assert {cell.route.name for cell in APPLYING if cell.column == "happy"} == {
        route.name for route in ROUTES
    }
    told = summary(every=True)
    assert all(told.count(f"    {route.name}\n") >= 1 for route in ROUTES)


async def park(target: Target, place: Place) -> None:
    """Brings a place's turn to where it asks for an approval, by the engine's own statements."""
    async with target.product.postgres() as admin:
        tenant_id = await admin.fetchval("select tenant_id from turns where id = $1", place.turn_id)
    async with Database(target.product.database_url, size=1) as database:
        claimed = await database.fetch_many("claim_turns", [place.turn_id], "w", 60.0)
        assert len(claimed) == 1
        call = {"tool_call_id": "x", "tool_name": "pay", "args": {}}
        parked = await database.fetch_one(
            "park_turn", place.turn_id, tenant_id, 1, {}, 1, [], None, [call], 1000.0,
            place.thread_id,
        )  # fmt: skip
        assert parked is not None


@pytest.mark.parametrize("cell", APPLYING, ids=lambda cell: cell.name)
async def test_is_answered(target: Target, unharmed: Unharmed, cell: Cell) -> None:
    is_happy = unharmed.rows_changed = cell.column == "happy"
    party = target.stranger if cell.column == "404 foreign" else target.owner
    place = await target.new_place(party) if is_happy else target.owner.place
    keys, status = party.keys, cell.status
    credential = bearer(keys.good)
    if is_happy and cell.route.name == ACTIONS:
        await park(target, place)
        status = 200
    if is_happy and cell.route.name in BY_SESSION_ALONE:
        credential = ACCEPTED["cookie"](replace(keys, session=await target.new_session(party)))
    answer = await send(target.port, cell.request(place, credential))
    assert answer.status == status, (cell.name, answer.body[:300])
    if is_happy:
        return
    require_problem(answer, cell.name)
    if cell.status == 422:
        place_of_it = cell.column.partition(" ")[2]
        assert {problem["loc"][0] for problem in answer.json["detail"]} == {place_of_it}
    if cell.status == 401:
        assert answer.header("www-authenticate") == "Bearer"
