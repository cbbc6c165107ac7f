"""Plans of the hot queries while statistics are young: a row is found by its key, never by a scan.

A plan is made once per connection. On a table that was empty then, "all turns of the tenant" looks
as cheap as the primary key, and stays the plan while the table grows. So what only checks a row is
written `(…) is true`, which no index can serve.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from shared.ids import new_id
from shared.postgres.queries import load_queries
from shared.turn.model import Principal

QUERIES = load_queries()
BY_KEY = {
    "accept_turns": {"threads_pkey", "turns_line", "concurrency_limits_pkey"},
    "claim_turns": {
        "turns_pkey",
        "turns_line",
        "turns_running_slot",
        "threads_pkey",
        "messages_pkey",
        "messages_by_turn",
        "messages_by_thread",
    },
    "list_histories": {"messages_by_turn"},
    "renew_leases": {"turns_pkey"},
    "validate_attempts": {"turns_pkey"},
    "end_turns": {"turns_pkey", "threads_pkey"},
    "hand_back_turns": {"turns_pkey"},
    "reap_turn": {"turns_pkey"},
    "get_turn": {"turns_pkey", "threads_pkey"},
    "get_turn_versions": {"turns_pkey", "threads_pkey"},
    "get_turn_of_tenant": {"turns_pkey"},
    "list_ended_turns": {"turns_pkey"},
    "request_cancel": {"turns_pkey"},
    "force_cancel": {"turns_pkey", "threads_pkey"},
    "get_thread": {"threads_pkey", "turns_pkey"},
    "update_thread": {"threads_pkey", "turns_pkey"},
    "delete_thread": {"threads_pkey"},
    "find_active_turn_of_key": {"turns_line"},
    "count_turns_ahead": {"turns_line"},
}


@pytest.fixture
async def young(admin: Any, principal: Principal) -> Any:
    """Tables as they are right after the first burst: rows, and no statistics."""
    for table in ("turns", "threads", "messages"):
        await admin.execute(f"alter table {table} set (autovacuum_enabled = off)")
    await admin.execute(
        "insert into threads (id, tenant_id, user_id)"
        " select gen_random_uuid(), $1, $2 from generate_series(1, 50)",
        principal.tenant_id,
        principal.user_id,
    )
    await admin.execute(
        "insert into turns (id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,"
        " planned_output_message_id, model_id, expires_at)"
        " select gen_random_uuid(), $1, $2, t.id, n::text, $3, $3, 'scripted', now() + '1 h'"
        " from generate_series(1, 40) n, threads t",
        principal.tenant_id,
        principal.user_id,
        new_id(),
    )
    return admin


@pytest.mark.parametrize("name", sorted(BY_KEY))
async def test_a_row_is_found_by_its_key_however_young_the_statistics(
    young: Any, name: str
) -> None:
    sql = QUERIES[name].sql
    nulls = ", ".join(["null"] * len(set(re.findall(r"\$\d+", re.sub(r"--.*", "", sql)))))
    await young.execute("set plan_cache_mode = force_generic_plan")
    await young.execute(f"prepare hot as {sql}")
    rows = await young.fetch(f"explain execute hot({nulls})")
    plan = "\n".join(row[0] for row in rows)
    used = set(re.findall(r"Index (?:Only )?Scan (?:Backward )?using (\w+)", plan))
    used |= set(re.findall(r"Bitmap Index Scan on (\w+)", plan))
    assert used <= BY_KEY[name], plan
    assert not re.search(r"Seq Scan on (turns|threads|messages)", plan), plan
    lines = [line.strip() for line in plan.splitlines()]
    scans = [number for number, line in enumerate(lines) if re.search(r"Index.* Scan", line)]
    assert all(lines[number + 1].startswith("Index Cond") for number in scans), plan
