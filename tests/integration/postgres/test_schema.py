"""The migrated schema agrees with the code."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from shared.postgres.migrate import migrate
from shared.turn.state import TERMINAL, TurnStatus


async def test_postgres_knows_which_statuses_are_terminal(admin: Any) -> None:
    checks = await admin.fetch(
        "select pg_get_constraintdef(oid) as text from pg_constraint"
        " where conrelid = 'turns'::regclass and contype = 'c'"
    )
    (ended,) = (row["text"] for row in checks if "ended_at" in row["text"])
    assert {status for status in TurnStatus if f"'{status}'" in ended} == TERMINAL


async def test_migrating_again_does_nothing(database_url: str) -> None:
    assert await migrate(database_url) == []


@pytest.mark.parametrize(
    "change",
    [
        "status = 'completed'",
        "ended_at = now()",
        "status = 'running'",
        "slot = 1",
        "status = 'running', slot = 1, worker_id = 'w'",
    ],
)
async def test_half_a_transition_is_refused(
    api: Any, make_turn: Any, admin: Any, change: str
) -> None:
    turn = await api.submit(make_turn())
    with pytest.raises(asyncpg.CheckViolationError):
        await admin.execute(f"update turns set {change} where id = $1", turn.id)  # noqa: S608
