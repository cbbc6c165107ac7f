"""Pages deep in a long list cost what the first one costs, as the tenants' role runs them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from shared.postgres.pool import SERVER_SETTINGS
from shared.postgres.queries import load_queries
from shared.turn.model import Principal

ROWS = 3_000
LAST_ID = "'ffffffff-ffff-ffff-ffff-ffffffffffff'"


async def removed_rows(database_url: str, who: Principal, name: str, *args: str) -> int:
    """Rows that a query read in vain."""
    connection = await asyncpg.connect(database_url, server_settings=SERVER_SETTINGS)
    try:
        await connection.execute(
            "begin; set local role turnkeep_tenant;"
            f" set local app.tenant = '{who.tenant_id}'; set local app.\"user\" = '{who.user_id}'"
        )
        await connection.execute(f"prepare page as {load_queries()[name].sql}")
        told = await connection.fetchval(
            f"explain (analyze, format json) execute page ({', '.join(args)})"
        )
    finally:
        await connection.close()
    return sum_up(orjson.loads(told)[0]["Plan"])


def sum_up(plan: dict[str, Any]) -> int:
    inner = sum(sum_up(child) for child in plan.get("Plans", ()))
    return int(plan.get("Rows Removed by Filter", 0)) + inner


@pytest.mark.parametrize("name", ["list_messages", "list_messages_backwards"])
async def test_a_page_of_messages_in_the_middle(
    admin: Any, principal: Principal, thread: UUID, database_url: str, name: str
) -> None:
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, role, content, format)"
        " select gen_random_uuid(), $1, $2, 'user', '', 'text' from generate_series(1, $3)",
        principal.tenant_id, thread, ROWS,
    )  # fmt: skip
    middle = await admin.fetchval(
        "select percentile_disc(0.5) within group (order by seq) from messages"
    )
    args = (f"'{principal.tenant_id}'", f"'{thread}'", str(middle), "50")
    assert await removed_rows(database_url, principal, name, *args) == 0


async def test_a_page_of_feedback_in_the_middle(
    admin: Any, principal: Principal, thread: UUID, database_url: str
) -> None:
    await admin.execute(
        "insert into feedback (id, tenant_id, user_id, thread_id, turn_id, rating, created_at)"
        " select gen_random_uuid(), $1, $2, $3, gen_random_uuid(), 'positive',"
        " '2026-01-01'::timestamptz + make_interval(secs => n) from generate_series(1, $4) n",
        principal.tenant_id, principal.user_id, thread, ROWS,
    )  # fmt: skip
    middle = "'2026-01-01'::timestamptz + interval '1500 s'"
    whose = (f"'{principal.tenant_id}'", f"'{principal.user_id}'")
    bounds = ("'-infinity'", "'infinity'", middle, LAST_ID, "50")
    args = (*whose, *["null"] * 4, *bounds)
    assert await removed_rows(database_url, principal, "list_feedback", *args) == 0
