"""Every named query against the migrated schema: it prepares, and it stays inside its tenant."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shared.automations.status import RunStatus, StepStatus
from shared.postgres.queries import load_queries
from shared.turn.state import TurnStatus

QUERIES = load_queries()


@pytest.mark.parametrize("name", sorted(QUERIES))
async def test_query_prepares(admin: Any, name: str) -> None:
    query = QUERIES[name]
    statement = await admin.prepare(query.sql)
    numbers = {int(number) for number in re.findall(r"\$(\d+)", _code(query.sql))}
    assert numbers == set(range(1, len(statement.get_parameters()) + 1))
    returns_rows = bool(statement.get_attributes())
    assert returns_rows == (query.kind != "exec"), "`:exec` is for queries without rows"


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_query_names_its_tenant_or_its_scope(name: str) -> None:
    query = QUERIES[name]
    assert "tenant_id" in _code(query.sql) or "-- scope: system" in query.sql


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_query_names_its_arguments(name: str) -> None:
    query = QUERIES[name]
    used = set(re.findall(r"\$\d+", _code(query.sql)))
    told = set(re.findall(r"\$\d+", query.purpose))
    assert used == told


async def test_statuses_are_those_of_the_state_machine(admin: Any) -> None:
    labels = await admin.fetchval("select enum_range(null::turn_status)::text[]")
    assert labels == [status.value for status in TurnStatus]


@pytest.mark.parametrize(
    ("type_", "statuses"),
    [("automation_run_status", RunStatus), ("automation_step_status", StepStatus)],
)
async def test_statuses_of_automations_are_those_of_the_code(
    admin: Any, type_: str, statuses: Any
) -> None:
    labels = await admin.fetchval(f"select enum_range(null::{type_})::text[]")
    assert labels == [status.value for status in statuses]


def _code(sql: str) -> str:
    return re.sub(r"--.*", "", sql)
