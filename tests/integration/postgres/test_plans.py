"""Plans of the hot queries: a row is found by its key, never by a scan, whatever the statistics.

A plan is made once per connection. On a table that was empty then, "all turns of the tenant" looks
as cheap as the primary key, and stays the plan while the table grows. So what only checks a row is
written `(…) is true`, which no index can serve, and the pool forbids sequential scans.
Statements are planned as they run: a tenant's with the policies of its role, the engine's for a
login that owns the tables and for one that does not.
"""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest

from shared.ids import new_id
from shared.postgres.pool import SERVER_SETTINGS
from shared.postgres.queries import load_queries
from shared.turn.model import Principal

QUERIES = load_queries()
CLAIM = {"turns_pkey", "turns_line", "turns_slot"}
AUTOMATION = {"automations_pkey", "automation_versions_pkey", "automation_runs_by_automation"}
RUN = {"automation_runs_pkey", "automation_run_steps_pkey"}
FILES = {"threads_pkey", "artifacts_pkey", "stored_files_pkey"}
ELIGIBLE = {"turns_pkey", "turns_line", "messages_actions"}
BY_KEY = {
    "accept_turns": {
        "threads_pkey",
        "turns_line",
        "concurrency_limits_pkey",
        "agent_specs_pkey",
        "agent_specs_default",
    },
    "get_agent_spec_version": {"agent_spec_versions_pkey"},
    "get_agent_spec": {"agent_specs_pkey", "agent_spec_versions_pkey"},
    "find_agent_spec_mode": {"agent_specs_pkey"},
    "find_agent_slugs": {"agent_specs_by_slug"},
    "find_default_agent": {"agent_specs_default"},
    "find_agent_by_slug": {"agent_specs_by_slug"},
    "find_agents_of_type": {"agent_specs_by_slug", "agent_spec_versions_pkey"},
    "get_agent_markdown": {"agent_spec_versions_pkey"},
    "get_chat": {"threads_pkey", "turns_pkey", "agent_specs_default"},
    "list_chats": {"threads_shared", "threads_by_activity"},
    "list_chats_of_key": {"threads_by_credential"},
    "list_chats_of_end_user": {"threads_by_end_user"},
    "list_chat_messages": {"messages_by_thread"},
    "find_same_question": {"threads_pkey", "turns_pkey", "messages_pkey"},
    "note_told": {"threads_pkey"},
    "find_named_thread": {"named_threads_pkey", "threads_pkey"},
    "find_name_of_thread": {"named_threads_thread_id_key"},
    "list_named_threads": {"named_threads_by_time", "threads_pkey"},
    "count_named_threads": {"named_threads_by_time", "threads_pkey"},
    "list_newest_messages": {"messages_by_thread"},
    "find_turns_of_messages": {"turns_pkey"},
    "list_artifacts_of_messages": {"attachments_by_thread", "artifacts_pkey"},
    "find_mcp_servers": {"mcp_servers_pkey"},
    "find_mcp_server_names": {"mcp_servers_pkey"},
    "list_agent_specs": {"agent_specs_by_slug", "agent_spec_versions_pkey"},
    "count_agent_specs": {"agent_specs_by_slug"},
    "lock_agent_spec": {"agent_specs_pkey"},
    "delete_agent_spec": {"agent_specs_pkey"},
    "set_default_agent": {"agent_specs_pkey"},
    "clear_default_agent": {"agent_specs_default"},
    "add_agent_spec_version": {"agent_specs_pkey"},
    "claim_turns": CLAIM | {"threads_pkey", "messages_pkey", "messages_by_turn"},
    "explain_refused_claims": CLAIM,
    "list_histories": {"messages_by_turn"},
    "renew_leases": {"turns_pkey"},
    "validate_attempts": {"turns_pkey"},
    "end_turns": {"turns_pkey", "threads_pkey"},
    "hand_back_turns": {"turns_pkey"},
    "reap_turn": {"turns_pkey"},
    "get_turn": {"turns_pkey", "threads_pkey"},
    "get_turn_versions": {"turns_pkey", "threads_pkey"},
    "get_turn_of_tenant": {"turns_pkey"},
    "list_silent_turns": {"turns_pkey"},
    "request_cancel": {"turns_pkey", "messages_by_turn"},
    "park_turn": {"turns_pkey", "threads_pkey"},
    "record_outcome": {"turns_pkey", "turn_approvals_pkey"},
    "lock_turn": {"turns_pkey", "threads_pkey"},
    "list_approvals": {"turn_approvals_pkey"},
    "find_turn_of_calls": {"turns_by_thread", "threads_pkey", "turn_approvals_pkey"},
    "decide_approvals": {"turn_approvals_pkey"},
    "resume_turn": {"turns_pkey"},
    "force_cancel": {"turns_pkey", "threads_pkey"},
    "get_thread": {"threads_pkey"} | ELIGIBLE,
    "update_thread": {"threads_pkey"} | ELIGIBLE,
    "delete_thread": {"threads_pkey"},
    "find_active_turn_of_key": {"turns_line"},
    "find_idempotent_turn": {"idempotency_keys_pkey"},
    "count_turns_ahead": {"turns_line"},
    "lock_thread": {"threads_pkey"},
    "list_threads": {"threads_by_activity"} | ELIGIBLE,
    "list_messages": {"messages_by_thread"},
    "list_messages_backwards": {"messages_by_thread"},
    "list_turns": {"turns_by_user", "turns_by_thread", "threads_pkey"},
    "find_active_turn_of_thread": {"turns_by_thread", "threads_pkey"},
    "list_output_messages": {"turns_pkey", "messages_by_turn", "messages_pkey"},
    "replace_partial_text": {
        "turns_pkey",
        "messages_pkey",
        "threads_pkey",
        "messages_by_turn",
        "messages_by_thread",
    },
    "find_silent_cancel": {"threads_pkey", "turns_pkey"},
    "find_newest_message": {"messages_by_turn"},
    "find_exchange": {"turns_pkey", "messages_pkey"},
    "accept_regenerated_turn": {
        "turns_pkey",
        "threads_pkey",
        "messages_pkey",
        "messages_by_turn",
        "turns_line",
        "concurrency_limits_pkey",
        "agent_specs_pkey",
        "agent_specs_default",
    },
    "find_feedback_target": {"threads_pkey", "messages_pkey", "turns_pkey"},
    "list_feedback": {"feedback_by_user", "threads_pkey"},
    "list_thread_ids": {"threads_by_activity"},
    "lock_threads": {"threads_pkey"},
    "delete_threads": {"threads_pkey"},
    "find_active_turns_of_user": {"turns_line", "threads_pkey"},
    "add_partial_text": {"turns_pkey", "turns_by_thread", "threads_pkey"},
    "find_api_key": {"api_keys_key_hash_key", "api_keys_pkey", "users_pkey", "tenants_pkey"},
    "find_subject": {"tenants_slug", "tenants_pkey", "users_by_subject"},
    "list_valid_credentials": {
        "api_keys_pkey",
        "users_pkey",
        "users_by_subject_id",
        "tenants_pkey",
    },
    "get_me": {"users_pkey", "tenants_pkey", "api_keys_pkey"},
    "list_access_tokens": {"api_keys_by_user", "api_keys_pkey"},
    "find_stored_file": {"stored_files_pkey"},
    "get_artifact": {"artifacts_pkey", "stored_files_pkey"},
    "list_artifacts": {
        "artifacts_pkey",
        "artifacts_by_time",
        "artifacts_by_kind",
        "artifacts_by_action_run",
        "stored_files_pkey",
    },
    "count_artifacts": {"artifact_counts_pkey", "artifacts_by_action_run", "artifacts_private"},
    "lock_artifact": {"artifacts_pkey"},
    "delete_artifact": {"artifacts_pkey"},
    "detach_artifact": {"attachments_by_artifact", "threads_pkey"},
    "find_message_of_thread": {"messages_pkey"},
    "get_attachment": FILES | {"attachments_pkey"},
    "list_attachments": FILES | {"attachments_by_thread", "attachments_once"},
    "find_awaited_text": FILES | {"attachments_by_thread", "attachments_once"},
    "find_living_attachments": {"attachments_pkey"},
    "list_attached_names": FILES | {"attachments_by_thread", "attachments_once"},
    "read_attached_text": FILES | {"attachments_pkey"},
    "list_attached_texts": FILES | {"attachments_by_thread", "attachments_once"},
    "delete_attachment": {"attachments_pkey", "threads_pkey"},
    "list_actions": {
        "messages_actions",
        "messages_by_turn",
        "turns_pkey",
        "turn_approvals_pkey",
    },
    "get_automation": AUTOMATION,
    "list_automations": AUTOMATION | {"automations_by_time"},
    "lock_automation": AUTOMATION,
    "get_automation_version": {"automation_versions_pkey"},
    "update_automation": {"automations_pkey"},
    "delete_automation": {"automations_pkey"},
    "count_open_runs": {"automation_runs_open"},
    "list_open_runs": {"automation_runs_open"},
    "get_automation_run": {"automation_runs_pkey", "automations_pkey"},
    "list_automation_runs": {"automation_runs_by_time", "automations_pkey"},
    "list_run_steps": {"automation_run_steps_pkey"},
    "lock_automation_run": {"automation_runs_pkey", "automations_pkey"},
    "decide_gates": {"automation_run_steps_pkey"},
    "resume_automation_run": {"automation_runs_pkey"},
    "cancel_automation_run": RUN,
    "list_claimed_steps": {"automation_run_steps_pkey"},
    "begin_automation_step": RUN,
    "finish_automation_step": RUN,
    "renew_automation_run": RUN,
    "expire_automation_gates": RUN,
    "park_automation_run": RUN,
    "end_automation_run": RUN,
    "hand_back_automation_run": RUN,
    "copy_exchanges": {"threads_pkey", "messages_by_turn"},
    "hide_exchange": {"messages_by_turn"},
    "detach_from_messages": {"attachments_by_thread", "attachments_once", "threads_pkey"},
    "retell_last_turn": {"turns_by_thread", "messages_by_turn", "threads_pkey"},
    "find_later_message": {"messages_by_thread", "messages_pkey"},
    "list_messages_of_no_turn": {"messages_by_turn"},
    "add_messages": {"threads_pkey"},
    "find_project_thread": {"threads_pkey", "projects_pkey"},
    "list_user_names": {"users_pkey"},
    "create_project_thread": {"projects_pkey"},
    "update_project_thread": {"threads_pkey", "projects_pkey"},
    "list_project_threads": {
        "threads_by_activity",
        "threads_by_project",
        "threads_pkey",
    },
    "count_project_threads": {"threads_by_activity", "threads_by_project"},
    "find_interaction": {"turns_pkey", "threads_pkey", "projects_pkey", "messages_pkey"},
    "list_interactions": {"turns_by_thread", "turns_pkey", "messages_pkey"},
    "count_interactions": {"turns_by_thread", "messages_pkey"},
    "list_messages_of_turns": {"messages_by_turn"},
    "begin_ingestion": {"artifacts_pkey", "stored_files_pkey"},
    "get_project_artifact": {"artifacts_pkey", "stored_files_pkey"},
    "list_project_artifacts": {"artifacts_by_project", "artifacts_pkey", "stored_files_pkey"},
    "count_project_artifacts": {"artifacts_by_project"},
    "find_named_artifacts": {"artifacts_pkey", "stored_files_pkey"},
    "attach_message_artifacts": {"artifacts_pkey", "threads_pkey"},
    "name_author": {"messages_pkey"},
    "give_turn_agent": {"turns_pkey", "agent_specs_pkey"},
    "list_projects": {"projects_by_time", "projects_pkey"},
    "count_projects": {"projects_by_time"},
    "list_over_transient_threads": {"threads_transient", "turns_by_thread"},
    "lock_transient_threads": {"threads_pkey"},
    "remove_transient_threads": {
        "threads_pkey",
        "turns_by_thread",
        "messages_by_thread",
        "messages_by_turn",
        "turn_approvals_pkey",
    },
    "finish_ingestion": {"stored_files_pkey"},
    "postpone_ingestion": {"stored_files_pkey"},
}

RARE = {
    "force_cancel", "replace_partial_text", "add_partial_text", "find_silent_cancel",
    "find_exchange", "accept_regenerated_turn",
}  # fmt: skip
"""What they know by another row is sought in a whole index while there are next to none."""


async def fill(admin: Any, principal: Principal, threads: int, turns: int) -> None:
    await admin.execute(
        "insert into threads (id, tenant_id, user_id)"
        " select gen_random_uuid(), $1, $2 from generate_series(1, $3)",
        principal.tenant_id,
        principal.user_id,
        threads,
    )
    await admin.execute(
        "insert into turns (id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,"
        " planned_output_message_id, model_id, expires_at)"
        " select gen_random_uuid(), $1, $2, t.id, n::text, $3, $3, 'scripted', now() + '1 h'"
        " from generate_series(1, $4) n, threads t",
        principal.tenant_id,
        principal.user_id,
        new_id(),
        turns,
    )
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, turn_id, turn_seq, role, content, format)"
        " select gen_random_uuid(), tenant_id, thread_id, id, accept_seq, 'user', '', 'text'"
        " from turns"
    )


@pytest.fixture(params=["empty", "known empty", "few", "known few", "young", "known"])
async def tables(request: Any, admin: Any, principal: Principal) -> str:
    """Tables before and after the first burst, without statistics and with them."""
    for table in ("turns", "threads", "messages"):
        await admin.execute(f"alter table {table} set (autovacuum_enabled = off)")
    if "empty" not in request.param:
        await fill(admin, principal, *((1, 2) if "few" in request.param else (50, 40)))
    if "known" in request.param:
        await admin.execute("analyze turns, threads, messages, idempotency_keys")
    state: str = request.param
    return state


async def test_a_row_is_found_by_its_key_whatever_the_statistics(
    tables: str, database_url: str
) -> None:
    names = set(BY_KEY)
    if tables in {"known empty", "known few"}:
        names -= set(RARE)  # planned anew when the next statistics come
    wrong: list[str] = []
    for name in sorted(names):
        try:
            await check_query(database_url, name, tables)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


async def check_query(database_url: str, name: str, tables: str) -> None:
    """Plans it on a connection of its own, as each role that runs it."""
    query = QUERIES[name]
    nulls = ", ".join(["null"] * len(set(re.findall(r"\$\d+", re.sub(r"--.*", "", query.sql)))))
    roles = {"tenant": ["turnkeep_tenant"], "engine": ["none", "turnkeep_engine"]}[query.role]
    connection = await asyncpg.connect(database_url, server_settings=SERVER_SETTINGS)
    try:
        await connection.execute(f"prepare hot as {query.sql}")
        for role in roles:
            await connection.execute(f"set role {role}")
            rows = await connection.fetch(f"explain execute hot({nulls})")
            check_plan("\n".join(row[0] for row in rows), BY_KEY[name], f"{tables}, {role}")
    finally:
        await connection.close()


def check_plan(plan: str, indexes: set[str], where: str) -> None:
    used = set(re.findall(r"Index (?:Only )?Scan (?:Backward )?using (\w+)", plan))
    used |= set(re.findall(r"Bitmap Index Scan on (\w+)", plan))
    assert used <= indexes, f"{where}: {plan}"
    assert "Seq Scan" not in plan, plan
    assert "turnkeep_tenant" not in where or "InitPlan" in plan, "the policy's tenant"
    lines = [line.strip() for line in plan.splitlines()]
    scans = [number for number, line in enumerate(lines) if re.search(r"Index.* Scan", line)]
    assert all(lines[number + 1].startswith("Index Cond") for number in scans), f"{where}: {plan}"
