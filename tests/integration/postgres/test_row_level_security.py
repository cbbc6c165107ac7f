"""The second lock alone keeps tenants apart: here the first one, our conditions, is taken away."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.errors import PostgresUnavailable
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.queries import Query, load_queries
from shared.postgres.transaction import Transaction
from shared.service.named_threads import Scope, scope_key
from shared.service.turns import TurnService
from shared.turn.model import ConflictPolicy, Principal
from tests.fixtures.system import add_principal, add_thread

PROTECTED = {
    "agent_spec_versions", "agent_specs", "api_keys", "artifact_counts", "artifacts",
    "attachments", "automation_run_steps", "automation_runs", "automation_versions", "automations",
    "concurrency_limits", "feedback", "idempotency_keys", "mcp_servers", "messages",
    "named_threads", "outbox", "projects",
    "replaced_messages", "storage_use", "stored_files", "tenants", "threads", "turn_approvals",
    "turns", "usage",
    "users",
}  # fmt: skip
OPEN = {
    "schema_migrations": "says which files ran; the tenants' role may not even read it",
    "login_attempts": "counts before anybody is known; the same",
}
KEY = "crm"
SHA256 = bytes(32)
MIN, MAX = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
LAST_ID = UUID(int=2**128 - 1)
TENANT_QUERIES = {name: query for name, query in load_queries().items() if query.role == "tenant"}


@dataclass(frozen=True)
class Owned:
    """What one tenant has: a row in every table, and turns in the states that matter here."""

    owner: Principal
    thread: UUID
    running: UUID
    cancelled: UUID
    silent: UUID
    message: UUID
    parked: UUID
    artifact: UUID
    attachment: UUID
    spec: UUID
    """The default one."""
    spare_spec: UUID
    automation: UUID
    run: UUID
    """Parked, with one open gate."""
    asked: UUID
    """A thread whose newest turn runs; made with the owner's key, for somebody."""
    project: UUID
    """Shared; the artifact is one of it."""
    cancelled_seq: int
    unread: UUID
    """An artifact of a file whose text nobody has asked for."""


async def add_turn(
    admin: Any, who: Principal, thread: UUID, status: str, said: UUID | None
) -> UUID:
    turn_id = new_id()
    runs, over = status == "running", status in {"cancelled", "completed"}
    slot = {"running": 1, "awaiting_approval": 2}.get(status)
    await admin.execute(
        "insert into turns (id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,"
        " planned_output_message_id, output_message_id, model_id, expires_at, status, attempt,"
        " worker_id, lease_until, cancel_requested_at, ended_at, slot, parked_count)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, 'scripted', now() + '1 h', $9, 1,"
        " case when $10 then 'w' end, case when $10 then now() end,"
        " now(), case when $11 then now() end, $12, coalesce($12, 1) - 1)",
        turn_id, who.tenant_id, who.user_id, thread, KEY, new_id(), said or new_id(), said, status,
        runs, over, slot,
    )  # fmt: skip
    return turn_id


@pytest.fixture
async def theirs(admin: Any) -> Owned:
    """A tenant that has everything."""
    who = await add_principal(admin)
    thread, message = await add_thread(admin, who), new_id()
    running = await add_turn(admin, who, thread, "running", None)
    cancelled = await add_turn(admin, who, thread, "cancelled", message)
    silent = await add_turn(admin, who, thread, "cancelled", None)
    parked = await add_turn(admin, who, thread, "awaiting_approval", None)
    tenant, user = who.tenant_id, who.user_id
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, turn_id, turn_seq, role, content, format)"
        " select $1, tenant_id, thread_id, id, accept_seq, 'assistant', 'secret', 'text'"
        " from turns where id = $2",
        message, cancelled,
    )  # fmt: skip
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, turn_id, role, content, format)"
        " select input_message_id, tenant_id, thread_id, id, 'user', 'secret', 'text'"
        " from turns where id = $1",
        cancelled,
    )
    await admin.execute(
        "insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name)"
        " values ($1, $2, $3, 'hash', 'p', 'n')", who.key_id, tenant, user,
    )  # fmt: skip
    await admin.execute("insert into concurrency_limits values ($1, $2, 3)", tenant, KEY)
    await admin.execute(
        "insert into idempotency_keys values ($1, 'scope', 'key', 'fp', $2)", tenant, running
    )
    await admin.execute("insert into usage values ($1, $2, 'm', 1, 1, 0)", cancelled, tenant)
    await admin.execute(
        "insert into outbox (tenant_id, turn_id, attempt, kind, payload)"
        " values ($1, $2, 1, 'k', '{}')", tenant, running,
    )  # fmt: skip
    await admin.execute(
        "insert into feedback (id, tenant_id, user_id, thread_id, message_id, rating, comment)"
        " values ($1, $2, $3, $4, $5, 'negative', 'secret')",
        new_id(), tenant, user, thread, message,
    )  # fmt: skip
    await admin.execute(
        "insert into replaced_messages values ($1, $2, $3)", running, message, tenant
    )
    await admin.execute("update threads set last_turn_id = $1 where id = $2", silent, thread)
    await admin.execute(
        "insert into turn_approvals"
        " (turn_id, tenant_id, round, place, tool_call_id, tool_name, args)"
        " values ($1, $2, 1, 1, 'call', 'pay', '{}')", parked, tenant,
    )  # fmt: skip
    artifact, attachment = new_id(), new_id()
    await admin.execute(
        "insert into stored_files (tenant_id, sha256, object_key, size_bytes, reader,"
        " ingestion_status, ingestion_due_at) values ($1, $2, 'key', 1, 'text', 'pending', now())",
        tenant, SHA256,
    )  # fmt: skip
    project = new_id()
    await admin.execute(
        "insert into projects (id, tenant_id, name, is_default, created_by)"
        " values ($1, $2, 'secret', true, $3)", project, tenant, user,
    )  # fmt: skip
    await admin.execute(
        "insert into artifacts (id, tenant_id, kind, mime_type, size_bytes, sha256, created_by,"
        " project_id) values ($1, $2, 'file', 'text/plain', 1, $3, $4, $5)",
        artifact, tenant, SHA256, user, project,
    )  # fmt: skip
    await admin.execute(
        "insert into attachments (id, tenant_id, thread_id, artifact_id) values ($1, $2, $3, $4)",
        attachment, tenant, thread, artifact,
    )  # fmt: skip
    spec, spare = new_id(), new_id()
    await admin.execute(
        "insert into agent_specs (id, tenant_id, slug, mode, is_default)"
        " values ($1, $3, 'sales', 'primary', true), ($2, $3, 'spare', 'primary', false)",
        spec, spare, tenant,
    )  # fmt: skip
    await admin.execute(
        "insert into agent_spec_versions values ($1, 1, $2, 'secret', '{}', 'secret')", spec, tenant
    )
    await admin.execute(
        "insert into mcp_servers (tenant_id, name, url, sealed_token, tool_prefix)"
        " values ($1, 'crm', 'https://crm.example/', 'secret', '')", tenant,
    )  # fmt: skip
    await add_action(admin, who, thread)
    await add_name(admin, who, thread, artifact, message)
    automated = await add_automation(admin, who)
    asked = await add_chat(admin, who)
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, role, content, format)"
        " values ($1, $2, $3, 'user', 'secret', 'text')", new_id(), tenant, thread,
    )  # fmt: skip
    cancelled_seq = await admin.fetchval("select accept_seq from turns where id = $1", cancelled)
    turns, files = (running, cancelled, silent), (artifact, attachment)
    return Owned(
        who,
        thread,
        *turns,
        message,
        parked,
        *files,
        spec,
        spare,
        *automated,
        asked,
        project,
        cancelled_seq,
        await add_unread(admin, who),
    )


async def add_unread(admin: Any, who: Principal) -> UUID:
    """An artifact of a file that can be read, and that nobody has had read."""
    artifact, sha256 = new_id(), bytes(31) + b"1"
    await admin.execute(
        "insert into stored_files (tenant_id, sha256, object_key, size_bytes, reader)"
        " values ($1, $2, 'unread', 1, 'text')", who.tenant_id, sha256,
    )  # fmt: skip
    await admin.execute(
        "insert into artifacts (id, tenant_id, kind, mime_type, size_bytes, sha256, created_by)"
        " values ($1, $2, 'file', 'text/plain', 1, $3, $4)",
        artifact, who.tenant_id, sha256, who.user_id,
    )  # fmt: skip
    return artifact


async def add_chat(admin: Any, who: Principal) -> UUID:
    """A thread with a turn that waits for an answer to `secret`."""
    thread = await add_thread(admin, who)
    turn = await add_turn(admin, who, thread, "pending", None)
    await admin.execute(
        "insert into messages (id, tenant_id, thread_id, turn_id, role, content, format)"
        " select input_message_id, tenant_id, thread_id, id, 'user', 'secret', 'text'"
        " from turns where id = $1", turn,
    )  # fmt: skip
    await admin.execute(
        "update threads set last_turn_id = $1, made_with = $2, end_user = 'secret' where id = $3",
        turn, who.key_id, thread,
    )  # fmt: skip
    return thread


async def add_name(admin: Any, who: Principal, thread: UUID, artifact: UUID, message: UUID) -> None:
    """A name for a thread, and an artifact at one of its messages."""
    await admin.execute(
        "insert into named_threads (tenant_id, workspace, namespace, name, thread_id)"
        " values ($1, 'w', 'n', 'secret', $2)", who.tenant_id, thread,
    )  # fmt: skip
    await admin.execute(
        "insert into attachments (id, tenant_id, thread_id, artifact_id, message_id)"
        " values ($1, $2, $3, $4, $5)", new_id(), who.tenant_id, thread, artifact, message,
    )  # fmt: skip


async def add_action(admin: Any, who: Principal, thread: UUID) -> None:
    """A completed turn with a tool call that succeeded."""
    turn = await add_turn(admin, who, thread, "completed", new_id())
    part = '{"part_kind": "tool-return", "tool_call_id": "1", "outcome": "success"}'
    await admin.execute(
        "insert into messages"
        " (id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data)"
        " select $1, tenant_id, thread_id, id, accept_seq, 'tool', 'secret', 'pydantic_ai',"
        " jsonb_build_object('parts', jsonb_build_array($3::jsonb)) from turns where id = $2",
        new_id(), turn, part,
    )  # fmt: skip


async def add_automation(admin: Any, who: Principal) -> tuple[UUID, UUID]:
    """An automation, and a run of it that waits for a decision."""
    automation, run, tenant = new_id(), new_id(), who.tenant_id
    await admin.execute(
        "insert into automations (id, tenant_id, name, source_type)"
        " values ($1, $2, 'secret', 'manual')", automation, tenant,
    )  # fmt: skip
    await admin.execute(
        "insert into automation_versions values ($1, 1, $2, '{}', 2)", automation, tenant
    )
    await admin.execute(
        "insert into automation_runs (id, tenant_id, automation_id, version, user_id, status)"
        " values ($1, $2, $3, 1, $4, 'awaiting_approval')", run, tenant, automation, who.user_id,
    )  # fmt: skip
    await admin.execute(
        "insert into automation_run_steps (run_id, place, tenant_id, step_id, kind, input,"
        " depends_on, is_deterministic, status, expires_at)"
        " values ($1, 1, $2, 'g', 'approval_gate', '{}', '[]', true, 'awaiting_approval', now())",
        run, tenant,
    )  # fmt: skip
    return automation, run


@pytest.fixture
async def stranger(admin: Any, theirs: Owned) -> Principal:
    """Another tenant, which has nothing: whatever it sees is not its own."""
    return await add_principal(admin)


async def snapshot(admin: Any) -> dict[str, str]:
    """All that stands in the protected tables."""
    told = " union all ".join(
        f"select '{table}', coalesce(string_agg(t::text, '' order by t::text), '') from {table} t"  # noqa: S608
        for table in sorted(PROTECTED)
    )
    return dict(await admin.fetch(told))


Arguments = Callable[[Principal, Owned], tuple[Any, ...]]
# What `who` asks for when it knows the ids of `its`.
ASKS: dict[str, Arguments] = {
    "get_thread": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "list_threads": lambda who, its: (who.tenant_id, who.user_id, None, None, 9),
    "update_thread": lambda who, its: (
        its.thread, who.tenant_id, who.user_id, True, "stolen", False, None, False, None, False,
        None,
    ),
    "lock_thread": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "lock_threads": lambda who, its: (who.tenant_id, who.user_id, [its.thread]),
    "find_active_turns_of_user": lambda who, its: (
        who.tenant_id, who.user_id, [its.thread], None, 2**63 - 1, 9,
    ),
    "delete_threads": lambda who, its: (who.tenant_id, who.user_id, [its.thread]),
    "list_thread_ids": lambda who, its: (who.tenant_id, who.user_id, None, None, None, 9),
    "find_newest_message": lambda who, its: (who.tenant_id, its.thread),
    "find_exchange": lambda who, its: (who.tenant_id, its.thread, its.message),
    "find_silent_cancel": lambda who, its: (its.thread, who.tenant_id, who.user_id, 30.0),
    "find_mcp_server_names": lambda who, its: (who.tenant_id, ["crm"]),
    "find_feedback_target": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, its.message, its.running,
    ),
    "list_feedback": lambda who, its: (
        who.tenant_id, who.user_id, *[None] * 4, MIN, MAX, MAX, LAST_ID, 9,
    ),
    "delete_thread": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "list_messages": lambda who, its: (who.tenant_id, its.thread, 0, 9),
    "list_messages_backwards": lambda who, its: (who.tenant_id, its.thread, 2**63 - 1, 9),
    "get_turn": lambda who, its: (its.running, who.tenant_id, who.user_id),
    "get_turn_of_tenant": lambda who, its: (its.running, who.tenant_id),
    "list_turns": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, None, None, None, 9,
    ),
    "find_active_turn_of_thread": lambda who, its: (who.tenant_id, who.user_id, its.thread),
    "count_turns_ahead": lambda who, its: (who.tenant_id, KEY, 1_000_000),
    "request_cancel": lambda who, its: (its.running, who.tenant_id, who.user_id),
    "force_cancel": lambda who, its: (
        its.running, who.tenant_id, 1, new_id(), "x", {}, {"inputTokens": 1}, "x",
    ),
    "replace_partial_text": lambda who, its: (who.tenant_id, its.cancelled, "x", {}, "x"),
    "add_partial_text": lambda who, its: (who.tenant_id, its.silent, "x", {}, "x"),
    "list_output_messages": lambda who, its: (who.tenant_id, its.cancelled),
    "get_me": lambda who, its: (who.tenant_id, its.owner.user_id, its.owner.key_id),
    "is_admin": lambda who, its: (who.tenant_id, its.owner.user_id),
    "update_user": lambda who, its: (
        who.tenant_id, its.owner.user_id, True, "stolen", False, None, False, None,
    ),
    "list_access_tokens": lambda who, its: (who.tenant_id, who.user_id, None, 9),
    "revoke_access_token": lambda who, its: (its.owner.key_id, who.tenant_id, who.user_id),
    "lock_turn": lambda who, its: (its.parked, who.tenant_id, who.user_id),
    "list_approvals": lambda who, its: (who.tenant_id, its.parked),
    "find_turn_of_calls": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, ["call"],
    ),
    "decide_approvals": lambda who, its: (
        who.tenant_id, its.parked, 1, who.user_id, ["call"], [True], [None],
    ),
    "resume_turn": lambda who, its: (its.parked, who.tenant_id),
    "find_active_turn_of_key": lambda who, its: (who.tenant_id, KEY),
    "find_idempotent_turn": lambda who, its: (who.tenant_id, "scope", "key"),
    "find_stored_file": lambda who, its: (who.tenant_id, SHA256),
    "get_artifact": lambda who, its: (its.artifact, who.tenant_id, who.user_id),
    "count_artifacts": lambda who, its: (who.tenant_id, None, None, who.user_id),
    "lock_artifact": lambda who, its: (its.artifact, who.tenant_id, who.user_id),
    "delete_artifact": lambda who, its: (its.artifact, who.tenant_id, its.owner.user_id),
    "list_artifacts": lambda who, its: (who.tenant_id, None, None, 0, 9, 9, who.user_id),
    "find_message_of_thread": lambda who, its: (its.message, who.tenant_id, its.thread),
    "find_attachment": lambda who, its: (who.tenant_id, its.thread, its.artifact, None),
    "get_attachment": lambda who, its: (its.attachment, who.tenant_id, who.user_id),
    "list_attachments": lambda who, its: (who.tenant_id, who.user_id, its.thread, 0, 9),
    "delete_attachment": lambda who, its: (its.attachment, who.tenant_id, who.user_id),
    "find_awaited_text": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, None, 9,
    ),
    "find_living_attachments": lambda who, its: (who.tenant_id, its.thread, [its.attachment]),
    "list_attached_names": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, None, None, 9,
    ),
    "read_attached_text": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, None, its.attachment, 0, 9,
    ),
    "list_attached_texts": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, its.message, 9, 9,
    ),
    "list_agent_specs": lambda who, its: (who.tenant_id, None, 9, 0),
    "count_agent_specs": lambda who, its: (who.tenant_id, None),
    "get_agent_spec": lambda who, its: (its.spec, who.tenant_id),
    "find_agent_spec_mode": lambda who, its: (its.spec, who.tenant_id),
    "find_agent_slugs": lambda who, its: (who.tenant_id, ["sales"]),
    "find_default_agent": lambda who, its: (who.tenant_id,),
    "lock_agent_spec": lambda who, its: (its.spec, who.tenant_id),
    "add_agent_spec_version": lambda who, its: (
        its.spec, who.tenant_id, "x", "primary", None, who.user_id, "x", {}, "x",
    ),
    "clear_default_agent": lambda who, its: (who.tenant_id,),
    "delete_agent_spec": lambda who, its: (its.spare_spec, who.tenant_id, who.user_id),
    "list_actions": lambda who, its: (who.tenant_id, its.thread, 9),
    "get_automation": lambda who, its: (its.automation, who.tenant_id),
    "list_automations": lambda who, its: (who.tenant_id, None, 0, 9, 9),
    "lock_automation": lambda who, its: (its.automation, who.tenant_id),
    "get_automation_version": lambda who, its: (its.automation, who.tenant_id, 1),
    "update_automation": lambda who, its: (
        its.automation, who.tenant_id, "stolen", None, "active", 1, 1, who.user_id,
    ),
    "delete_automation": lambda who, its: (its.automation, who.tenant_id, who.user_id),
    "count_open_runs": lambda who, its: (who.tenant_id, 9),
    "list_open_runs": lambda who, its: (who.tenant_id, its.automation),
    "get_automation_run": lambda who, its: (its.run, who.tenant_id),
    "list_automation_runs": lambda who, its: (who.tenant_id, None, None, 0, 9),
    "list_run_steps": lambda who, its: (its.run, who.tenant_id),
    "lock_automation_run": lambda who, its: (its.run, who.tenant_id),
    "decide_gates": lambda who, its: (
        its.run, who.tenant_id, who.user_id, ["g"], [True], [None],
    ),
    "resume_automation_run": lambda who, its: (its.run, who.tenant_id),
    "cancel_automation_run": lambda who, its: (its.run, who.tenant_id),
    "set_default_agent": lambda who, its: (its.spec, who.tenant_id, who.user_id),
    "find_agent_by_slug": lambda who, its: (who.tenant_id, "sales"),
    "find_agents_of_type": lambda who, its: (who.tenant_id, "primary"),
    "get_agent_markdown": lambda who, its: (its.spec, who.tenant_id, 1),
    "get_chat": lambda who, its: (its.asked, who.tenant_id, who.user_id, None),
    "list_chats": lambda who, its: (who.tenant_id, who.user_id, None, True, 9),
    "list_chats_of_key": lambda who, its: (who.tenant_id, its.owner.key_id, None, 9),
    "list_chats_of_end_user": lambda who, its: (
        who.tenant_id, who.user_id, its.owner.key_id, "secret", None, 9,
    ),
    "list_chat_messages": lambda who, its: (who.tenant_id, its.asked, 9, 99),
    "find_same_question": lambda who, its: (its.asked, who.tenant_id, who.user_id, "secret"),
    "note_told": lambda who, its: (its.asked, who.tenant_id, who.user_id, 1),
    "find_named_thread": lambda who, its: (who.tenant_id, "w", "n", "secret", who.user_id),
    "find_name_of_thread": lambda who, its: (its.thread, who.tenant_id),
    "list_named_threads": lambda who, its: (
        who.tenant_id, who.user_id, scope_key(its.owner.tenant_id, Scope("w", "n")), "w", "n",
        None, MAX, LAST_ID, 9,
    ),
    "count_named_threads": lambda who, its: (
        who.tenant_id, who.user_id, scope_key(its.owner.tenant_id, Scope("w", "n")), "w", "n", None,
    ),
    "list_newest_messages": lambda who, its: (
        who.tenant_id, its.thread, ["user", "assistant"], 9, 2**20,
    ),
    "find_turns_of_messages": lambda who, its: (who.tenant_id, [its.running]),
    "list_artifacts_of_messages": lambda who, its: (
        who.tenant_id, its.thread, [its.message], 9,
    ),
    "copy_exchanges": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, 2**63 - 1, its.thread, 9,
    ),
    "hide_exchange": lambda who, its: (who.tenant_id, its.thread, its.cancelled_seq),
    "retell_last_turn": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "find_later_message": lambda who, its: (who.tenant_id, its.thread, its.message),
    "list_messages_of_no_turn": lambda who, its: (who.tenant_id, its.thread, 2**63 - 1, 9),
    "add_messages": lambda who, its: (
        who.tenant_id, who.user_id, its.thread, [new_id()], ["user"], ["x"], "x",
    ),
    "get_project": lambda who, its: (its.project, who.tenant_id, who.user_id),
    "list_projects": lambda who, its: (who.tenant_id, who.user_id, None, None, False, 0, 9),
    "count_projects": lambda who, its: (who.tenant_id, who.user_id),
    "find_project_thread": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "update_project_thread": lambda who, its: (
        its.thread, who.tenant_id, who.user_id, "stolen", "shared",
    ),
    "list_project_threads": lambda who, its: (
        who.tenant_id, who.user_id, None, None, None, False, 0, 9,
    ),
    "count_project_threads": lambda who, its: (who.tenant_id, who.user_id, None),
    "find_interaction": lambda who, its: (its.cancelled, who.tenant_id, who.user_id),
    "list_interactions": lambda who, its: (who.tenant_id, its.thread, None, False, 0, 9),
    "count_interactions": lambda who, its: (who.tenant_id, its.thread),
    "list_messages_of_turns": lambda who, its: (who.tenant_id, its.thread, [*range(1, 20)]),
    "begin_ingestion": lambda who, its: (its.unread, who.tenant_id),
    "get_project_artifact": lambda who, its: (its.artifact, who.tenant_id, who.user_id),
    "list_project_artifacts": lambda who, its: (
        who.tenant_id, who.user_id, its.project, None, None, False, 0, 9,
    ),
    "count_project_artifacts": lambda who, its: (who.tenant_id, who.user_id, its.project),
    "find_named_artifacts": lambda who, its: (who.tenant_id, who.user_id, [its.artifact]),
    "find_thread_owner": lambda who, its: (its.thread, who.tenant_id, who.user_id),
    "append_message": lambda who, its: (
        new_id(), who.tenant_id, its.thread, who.user_id, "user", "x", "text", None, None, "x",
        who.user_id,
    ),
    "get_message": lambda who, its: (its.message, who.tenant_id, its.thread),
    "hide_message": lambda who, its: (its.message, who.tenant_id, its.thread),
    "hide_messages": lambda who, its: (who.tenant_id, its.thread),
    "detach_from_messages": lambda who, its: (who.tenant_id, its.thread, None),
    "count_messages": lambda who, its: (who.tenant_id, its.thread),
    "retell_last_message": lambda who, its: (its.thread, who.tenant_id, who.user_id),
}  # fmt: skip
READS_NOTHING = {
    "lock_concurrency_key": "an advisory lock",
    "lock_agent_specs": "an advisory lock",
    "create_thread": "see below",
    "create_chat": "see below",
    "create_thread_for_name": "see below",
    "name_thread": "see below",
    "create_thread_once": "see below",
    "create_project_thread": "see below",
    "create_transient_thread": "see below",
    "create_project": "see below",
    "put_feedback": "see below",
    "add_access_token": "see below",
    "lock_storage_use": "see below",
    "create_inline_artifact": "see below",
    "create_file_artifact": "see below",
    "create_attachment": "see below",
    "add_agent_spec": "see below",
    "create_automation": "see below",
    "add_automation_version": "see below",
    "create_automation_run": "see below",
}
COUNTS = {
    "count_turns_ahead": "position", "count_agent_specs": "total", "count_artifacts": "total",
    "count_open_runs": "total", "count_named_threads": "total",
    "count_projects": "total", "count_project_threads": "total",
    "count_interactions": "total", "count_project_artifacts": "total", "count_messages": "total",
}  # fmt: skip
"""Statements that always return a row, and where in it the number is."""


def without_conditions(query: Query) -> Query:
    """A copy that forgot whose rows it may see."""
    forgot = re.sub(r"(?:\w+\.)?(?:tenant|user)_id = (\$\d+)", r"(\1::uuid is not null)", query.sql)
    assert forgot != query.sql
    return replace(query, sql=forgot)


def test_every_tenant_statement_is_tried() -> None:
    assert ASKS.keys() | READS_NOTHING.keys() == TENANT_QUERIES.keys()


class Undone(Exception):
    """Ends a transaction that shall leave nothing."""


def found(name: str, rows: Sequence[Any]) -> list[Any]:
    """The rows that tell of something: a count of nothing does not."""
    return [row for row in rows if name not in COUNTS or row[COUNTS[name]]]


async def fetch_and_undo(database: Any, name: str, args: tuple[Any, ...]) -> list[Any]:
    """The rows of a statement that may write, as if it had not."""
    rows: list[Any] = []

    async def work(transaction: Transaction) -> None:
        rows.extend(await transaction.fetch_many(name, *args))
        raise Undone

    with pytest.raises(Undone):
        await database.run_in_transaction(work)
    return rows


async def test_a_statement_without_its_conditions_still_keeps_to_its_tenant(
    database: Database,
    admin: Any,
    theirs: Owned,
    stranger: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await snapshot(admin)
    for name, ask in sorted(ASKS.items()):
        query, args = without_conditions(TENANT_QUERIES[name]), ask(stranger, theirs)
        monkeypatch.setitem(load_queries(), name, replace(query, role="engine"))
        rows = await fetch_and_undo(database, name, args)
        assert found(name, rows), f"{name}: without the second lock the stranger sees it"
        monkeypatch.setitem(load_queries(), name, query)
        rows = await database.for_tenant(stranger).fetch_many(name, *args)
        assert found(name, rows) == [], name
        assert await snapshot(admin) == before, name


async def test_a_statement_under_the_wrong_tenant_finds_nothing(
    database: Database, admin: Any, theirs: Owned, stranger: Principal
) -> None:
    before = await snapshot(admin)
    for name, ask in sorted(ASKS.items()):
        args = ask(theirs.owner, theirs)
        rows = await database.for_tenant(stranger).fetch_many(name, *args)
        assert found(name, rows) == [], name
        rows = await fetch_and_undo(database.for_tenant(theirs.owner), name, args)
        assert found(name, rows), f"{name}: its owner may"
        assert await snapshot(admin) == before, name


async def test_a_colleague_does_not_see_the_thread_nor_what_hangs_on_it(
    database: Database, admin: Any, theirs: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    for name in (
        "get_thread", "list_threads", "update_thread", "delete_thread", "get_turn", "list_turns",
        "find_active_turn_of_thread", "get_attachment", "list_attachments", "delete_attachment",
        "list_attached_texts", "list_attached_names", "read_attached_text", "find_awaited_text",
        "lock_turn", "find_turn_of_calls", "list_feedback",
        "find_silent_cancel", "find_feedback_target", "lock_threads", "delete_threads",
        "list_thread_ids", "find_active_turns_of_user",
        "find_thread_owner", "append_message", "retell_last_message", "find_project_thread",
        "update_project_thread", "retell_last_turn", "get_chat", "list_chats",
        "list_chats_of_key", "list_chats_of_end_user", "find_same_question", "find_interaction",
        "find_named_thread", "list_named_threads", "list_project_threads", "copy_exchanges",
        "add_messages",
    ):  # fmt: skip
        monkeypatch.setitem(load_queries(), name, without_conditions(TENANT_QUERIES[name]))
        args = ASKS[name](colleague, theirs)
        assert await database.for_tenant(colleague).fetch_many(name, *args) == [], name


SHARED = {
    "find_thread_owner", "find_project_thread", "get_chat", "list_chats", "list_chats_of_key",
    "find_interaction", "find_named_thread", "list_named_threads", "list_project_threads",
}  # fmt: skip
"""What a colleague reads of a thread that is shared."""
WRITES = {
    "update_thread", "delete_thread", "append_message", "update_project_thread",
    "retell_last_message", "retell_last_turn", "add_messages", "delete_threads",
}  # fmt: skip


async def test_a_colleague_reads_a_shared_thread_and_changes_it_as_its_owner_alone(
    database: Database, admin: Any, theirs: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with statements that forgot whose it is. Shared with its project is not shared."""
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    for name in SHARED | WRITES:
        monkeypatch.setitem(load_queries(), name, without_conditions(TENANT_QUERIES[name]))
    for visibility, seen in (("project", False), ("shared", True)):
        await admin.execute("update threads set visibility = $1, metadata = '{}'", visibility)
        before = await snapshot(admin)
        for name in sorted(SHARED):
            rows = await database.for_tenant(colleague).fetch_many(
                name, *ASKS[name](colleague, theirs)
            )
            assert bool(rows) is seen, (name, visibility)
        for name in sorted(WRITES):
            with suppress(asyncpg.InsufficientPrivilegeError):
                rows = await database.for_tenant(colleague).fetch_many(
                    name, *ASKS[name](colleague, theirs)
                )
                assert rows == [], name
        assert await snapshot(admin) == before


async def test_a_colleague_does_not_see_a_private_project(
    database: Database, admin: Any, theirs: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with statements that forgot to ask whose it is."""
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    for name in ("get_project", "list_projects", "count_projects"):
        query = TENANT_QUERIES[name]
        forgot = re.sub(r"\(p\.visibility = 'shared' or p\.created_by = (\$\d)\)",
                        r"(\1::uuid is not null)", query.sql)  # fmt: skip
        assert forgot != query.sql
        monkeypatch.setitem(load_queries(), name, replace(query, sql=forgot))
    for visibility in ("shared", "private"):
        await admin.execute("update projects set visibility = $1", visibility)
        for name in ("get_project", "list_projects", "count_projects"):
            for who, seen in ((theirs.owner, True), (colleague, visibility == "shared")):
                rows = await database.for_tenant(who).fetch_many(name, *ASKS[name](who, theirs))
                assert bool(found(name, rows)) is seen, (name, visibility)


async def test_nobody_makes_a_project_for_a_colleague(
    database: Database, theirs: Owned, admin: Any
) -> None:
    before, owner = await snapshot(admin), theirs.owner
    colleague = replace(owner, user_id=new_id())
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await database.for_tenant(colleague).fetch_one(
            "create_project", new_id(), owner.tenant_id, owner.user_id, "x", None, None, "private"
        )
    assert await snapshot(admin) == before


async def test_nobody_makes_a_thread_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    other_user = replace(stranger, user_id=theirs.owner.user_id)
    unknown_user = replace(stranger, user_id=new_id())
    errors = set()
    for owner in (theirs.owner, other_user, unknown_user):
        for name, more in (
            ("create_thread", (None, None, {}, None)),
            ("create_project_thread", ("x", "shared", None)),
            ("create_transient_thread", ()),
            ("create_thread_once", ()),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
                await database.for_tenant(stranger).fetch_one(
                    name, new_id(), owner.tenant_id, owner.user_id, *more
                )
            errors.add((str(refused.value), refused.value.detail))
    assert len(errors) == 1, "who exists elsewhere and who does not are told the same"
    assert await snapshot(admin) == before


async def test_nobody_names_a_thread_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before, owner = await snapshot(admin), theirs.owner
    asked: list[tuple[str, tuple[Any, ...]]] = [
        ("create_thread_for_name", (new_id(), owner.tenant_id, owner.user_id, None)),
        ("name_thread", (owner.tenant_id, "w", "n", "mine", None, theirs.thread, {})),
        ("name_thread", (owner.tenant_id, "w", "n", "secret", None, theirs.thread, {})),
    ]
    for name, args in asked:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await database.for_tenant(stranger).fetch_one(name, *args)
    assert await snapshot(admin) == before


async def test_nobody_makes_a_token_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    for who in (stranger, colleague):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await database.for_tenant(who).fetch_one(
                "add_access_token", new_id(), theirs.owner.tenant_id, theirs.owner.user_id, b"h",
                "p", "n", 1, 100, None,
            )  # fmt: skip
    assert await snapshot(admin) == before


async def test_a_colleague_sees_neither_the_user_nor_their_keys(
    database: Database, admin: Any, theirs: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    before = await snapshot(admin)
    for name in ("get_me", "is_admin", "update_user", "list_access_tokens", "revoke_access_token"):
        monkeypatch.setitem(load_queries(), name, without_conditions(TENANT_QUERIES[name]))
        args = ASKS[name](colleague, theirs)
        assert await database.for_tenant(colleague).fetch_many(name, *args) == [], name
    assert await snapshot(admin) == before


async def test_a_colleague_does_not_see_a_private_artifact(
    database: Database, admin: Any, theirs: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with statements that forgot to ask who made it."""
    colleague = Principal(theirs.owner.tenant_id, new_id(), new_id())
    names = (
        "get_artifact", "list_artifacts", "get_project_artifact", "list_project_artifacts",
        "find_named_artifacts",
    )  # fmt: skip
    for name in names:
        query = TENANT_QUERIES[name]
        forgot = re.sub(r"\(not (\w+)\.is_private or \w+\.created_by = (\$\d+)\)",
                        r"(\2::uuid is not null)", query.sql)  # fmt: skip
        assert forgot != query.sql
        monkeypatch.setitem(load_queries(), name, replace(query, sql=forgot))
    for is_private in (False, True):
        await admin.execute(
            "update artifacts set is_private = $1, created_by = $2 where id = $3",
            is_private, theirs.owner.user_id, theirs.artifact,
        )  # fmt: skip
        for name in names:
            for who, seen in ((theirs.owner, 1), (colleague, 0 if is_private else 1)):
                rows = await database.for_tenant(who).fetch_many(name, *ASKS[name](who, theirs))
                ids = [row["id"] for row in rows]
                assert ids.count(theirs.artifact) == seen, (name, is_private)


async def test_nobody_makes_files_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    tenant, user = theirs.owner.tenant_id, theirs.owner.user_id
    for name, args in {
        "lock_storage_use": (tenant,),
        "create_inline_artifact": (new_id(), tenant, None, "text", None, "t", 1, "x", user),
        "create_file_artifact": (
            new_id(), tenant, None, None, "t", 1, SHA256, "other key", None, user, None, None,
            False,
        ),
        "create_project": (new_id(), tenant, user, "x", None, None, "shared"),
        "create_attachment": (new_id(), tenant, theirs.thread, theirs.artifact, None, user),
    }.items():  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.for_tenant(stranger).fetch_one(name, *args)
    assert await snapshot(admin) == before


async def test_nobody_makes_an_agent_spec_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    for tenant_id in (theirs.owner.tenant_id, new_id()):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.for_tenant(stranger).fetch_one(
                "add_agent_spec", new_id(), tenant_id, "s", "primary", None, False, None, "", {}, ""
            )
    assert await snapshot(admin) == before


async def test_nobody_makes_automations_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    tenant, user = theirs.owner.tenant_id, theirs.owner.user_id
    attempts: dict[str, tuple[Any, ...]] = {
        "create_automation": (
            new_id(), tenant, "n", None, "manual", None, None, user, {"steps": []}, 2,
        ),
        "add_automation_version": (theirs.automation, tenant, 2, {}, 2, user),
        "create_automation_run": (new_id(), tenant, theirs.automation, 1, user, []),
    }  # fmt: skip
    for name, args in attempts.items():
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.for_tenant(stranger).fetch_one(name, *args)
    assert await snapshot(admin) == before


async def test_nobody_gives_feedback_for_another(
    database: Database, theirs: Owned, stranger: Principal, admin: Any
) -> None:
    before = await snapshot(admin)
    owner = theirs.owner
    colleague = replace(owner, user_id=new_id())
    for who, tenant_id, user_id in [
        (stranger, owner.tenant_id, owner.user_id),
        (stranger, stranger.tenant_id, owner.user_id),
        (colleague, owner.tenant_id, owner.user_id),
    ]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.for_tenant(who).fetch_one(
                "put_feedback", new_id(), tenant_id, user_id, theirs.thread, None, theirs.message,
                "positive", None,
            )  # fmt: skip
    assert await snapshot(admin) == before


async def test_a_broken_constraint_names_no_foreign_value(
    database: Database, theirs: Owned, stranger: Principal
) -> None:
    with pytest.raises(asyncpg.UniqueViolationError) as broken:
        await database.for_tenant(stranger).fetch_one(
            "create_thread",
            theirs.thread,
            stranger.tenant_id,
            stranger.user_id,
            None,
            None,
            {},
            None,
        )
    assert broken.value.detail is None
    assert str(theirs.thread) not in str(broken.value)


# -- the tables themselves


@asynccontextmanager
async def as_tenant(database_url: str, *settings: str) -> AsyncIterator[Any]:
    """A plain connection of the role; all is granted, so only the policies are between."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("grant all on all tables in schema public to turnkeep_tenant")
        await connection.execute("begin; set local role turnkeep_tenant")
        for setting in settings:
            await connection.execute(setting)
        yield connection
    finally:
        await connection.close()


def whose(who: Principal) -> str:
    return f"set local app.tenant = '{who.tenant_id}'; set local app.\"user\" = '{who.user_id}'"


async def refuses_inserts(connection: Any, table: str, row: str) -> None:
    columns = await connection.fetchval(
        "select string_agg(quote_ident(attname), ', ') from pg_attribute"
        " where attrelid = $1::regclass and attnum > 0 and attgenerated = '' and not attisdropped",
        table,
    )
    await connection.execute("savepoint here")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await connection.execute(
            f"insert into {table} ({columns}) overriding system value"  # noqa: S608
            f" select {columns} from json_populate_record(null::{table}, $1)", row
        )  # fmt: skip
    await connection.execute("rollback to here")


@pytest.mark.parametrize("settings", ["another tenant", "nothing", "empty", "only a user"])
async def test_tables_show_and_take_nothing_of_another_tenant(
    database_url: str, admin: Any, theirs: Owned, settings: str
) -> None:
    before = await snapshot(admin)
    statements = {
        "another tenant": [whose(Principal(new_id(), new_id(), new_id()))],
        "nothing": [],
        "empty": ["set local app.tenant = ''; set local app.\"user\" = ''"],
        "only a user": [f"set local app.\"user\" = '{theirs.owner.user_id}'"],
    }[settings]
    for table in sorted(PROTECTED):
        row = await admin.fetchval(f"select row_to_json(t)::text from {table} t")  # noqa: S608
        column = "id" if table == "tenants" else "tenant_id"
        async with as_tenant(database_url, *statements) as connection:
            seen = await connection.fetch(f"select * from {table}")  # noqa: S608
            assert seen == [], table
            changed = await connection.execute(f"update {table} set {column} = {column}")  # noqa: S608
            assert changed == "UPDATE 0", table
            assert await connection.execute(f"delete from {table}") == "DELETE 0", table  # noqa: S608
            await refuses_inserts(connection, table, row)
            await connection.execute("commit")
        assert await snapshot(admin) == before, table
    async with as_tenant(database_url, whose(theirs.owner)) as connection:
        for table in sorted(PROTECTED):
            seen = await connection.fetch(f"select * from {table}")  # noqa: S608
            assert seen, f"{table}: its owner sees it"


async def test_a_row_cannot_be_given_away(
    database_url: str, theirs: Owned, stranger: Principal
) -> None:
    async with as_tenant(database_url, whose(theirs.owner)) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute("update turns set tenant_id = $1", stranger.tenant_id)


async def test_every_table_is_protected_or_has_a_reason(admin: Any) -> None:
    rows = await admin.fetch(
        "select c.relname as name, c.relrowsecurity as is_protected,"
        " array(select p.polname::text from pg_policy p where p.polrelid = c.oid) as policies,"
        " array(select unnest(p.polroles)::regrole::text from pg_policy p"
        " where p.polrelid = c.oid) as roles,"
        " has_table_privilege('turnkeep_tenant', c.oid, 'delete, truncate, trigger, references')"
        " as is_too_much,"
        " has_table_privilege('turnkeep_engine', c.oid, 'insert') as is_written,"
        " has_any_column_privilege('turnkeep_tenant', c.oid, 'select') as is_read"
        " from pg_class c where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace"
    )
    assert {row["name"] for row in rows if row["is_protected"]} == PROTECTED
    assert {row["name"] for row in rows if not row["is_protected"]} == OPEN.keys()
    for row in rows:
        assert not row["is_too_much"], row["name"]
        if row["name"] in OPEN:
            assert not row["is_read"]
        else:
            # Policies add up: a second one could only show more.
            policies = dict(zip(row["policies"], row["roles"], strict=True))
            assert policies == {"own_rows": "turnkeep_tenant", "all_rows": "turnkeep_engine"}
            assert row["is_written"], "by the engine, when it does not own the tables"


async def test_views_and_functions_keep_who_asks(admin: Any) -> None:
    views = await admin.fetch(
        "select relname from pg_class where relkind in ('v', 'm')"
        " and relnamespace = 'public'::regnamespace"
        " and not coalesce(reloptions::text ilike '%security_invoker=true%', false)"
    )
    functions = await admin.fetch(
        "select proname from pg_proc where prosecdef and pronamespace = 'public'::regnamespace"
    )
    assert (views, functions) == ([], []), "these would look with their owner's eyes"


async def test_the_role_can_do_little(admin: Any, database_url: str) -> None:
    role = await admin.fetchrow("select * from pg_roles where rolname = 'turnkeep_tenant'")
    for power in ("super", "bypassrls", "canlogin", "createdb", "createrole", "replication"):
        assert not role[f"rol{power}"]
    connection = await asyncpg.connect(database_url)
    try:
        for statement in (
            "create table mine (id int)",
            "alter table turns disable row level security",
            "drop policy own_rows on turns",
            "delete from threads",
            "select key_hash from api_keys",
            "insert into api_keys default values",
            "select * from users",
            "select password_hash from users",
            "update users set disabled_at = null",
            "update api_keys set expires_at = null",
            "select * from login_attempts",
            "select * from schema_migrations",
            "update turns set user_id = user_id",
            "update projects set visibility = 'shared'",
            "update named_threads set tenant_id = tenant_id",
            "update threads set made_with = null",
            "update threads set is_transient = false",
            "update api_keys set workspaces = null",
        ):
            async with connection.transaction():
                await connection.execute("set local role turnkeep_tenant; savepoint here")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
                await connection.execute("rollback to here")
    finally:
        await connection.close()


# -- connections of the pool


STATE = (
    "select current_user = session_user as is_login,"
    " nullif(current_setting('app.tenant', true), '') as tenant,"
    " nullif(current_setting('app.user', true), '') as user"
)


async def assert_nothing_is_left(database: Database) -> int:
    """No connection has a role or a tenant, or is in a transaction; how many there are."""
    assert database._pool is not None
    connections = [await database._pool.acquire() for _ in range(database._pool.get_idle_size())]
    for connection in connections:
        assert not connection.is_in_transaction()
        row = await connection.fetchrow(STATE)
        assert row is not None
        assert tuple(row) == (True, None, None)
    for connection in connections:
        await database._pool.release(connection)
    return len(connections)


@pytest.fixture
async def single(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, size=1) as database:
        yield database


@pytest.fixture
async def complaints() -> list[Any]:
    """What the driver tells the loop when a connection comes back in a transaction."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def test_a_statement_leaves_nothing(single: Database, theirs: Owned) -> None:
    mine = single.for_tenant(theirs.owner)
    args = (theirs.thread, theirs.owner.tenant_id, theirs.owner.user_id)
    assert await mine.fetch_one("get_thread", *args) is not None
    await assert_nothing_is_left(single)

    async def work(transaction: Transaction) -> None:
        assert await transaction.fetch_one("get_thread", *args) is not None
        await transaction.go_on_as_engine()
        assert (await transaction._connection.fetchrow(STATE))["is_login"]
        with pytest.raises(ValueError, match="statement of the tenant"):
            await transaction.fetch_one("get_thread", *args)

    await mine.run_in_transaction(work)
    await assert_nothing_is_left(single)


@pytest.mark.parametrize("how", ["error", "refused", "cancelled", "connection lost"])
async def test_a_transaction_that_breaks_leaves_nothing(
    single: Database, theirs: Owned, admin: Any, complaints: list[Any], how: str
) -> None:
    who = theirs.owner
    reached = asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await transaction.fetch_one(
            "update_thread", theirs.thread, who.tenant_id, who.user_id, True, "half done",
            False, None, False, None, False, None,
        )  # fmt: skip
        reached.set()
        match how:
            case "error":
                raise KeyError
            case "refused":
                await transaction.fetch_one(
                    "create_thread", theirs.thread, who.tenant_id, who.user_id, None, None, {}, None
                )
            case "cancelled":
                await transaction._connection.execute("select pg_sleep(10)")
            case _:
                pid = transaction._connection.get_server_pid()
                await admin.execute("select pg_terminate_backend($1)", pid)
                await transaction.fetch_one("list_threads", None, None, None, None, 1)

    expected: dict[str, type[BaseException]] = {
        "error": KeyError,
        "refused": asyncpg.UniqueViolationError,
        "cancelled": asyncio.CancelledError,
        "connection lost": PostgresUnavailable,
    }
    call = single.start(single.for_tenant(who).run_in_transaction(work))
    await reached.wait()
    if how == "cancelled":
        await asyncio.sleep(0.05)
        call.cancel()
    with pytest.raises(expected[how]):
        await call
    await single.ping()
    assert await assert_nothing_is_left(single) == 1
    assert await admin.fetchval("select title from threads") is None
    assert complaints == []


async def test_a_migration_in_between_is_not_noticed(
    single: Database, theirs: Owned, admin: Any
) -> None:
    mine = single.for_tenant(theirs.owner)
    args = (theirs.thread, theirs.owner.tenant_id, theirs.owner.user_id)

    async def work(transaction: Transaction) -> Any:
        return await transaction.fetch_one("get_thread", *args)

    for column in ("one", "two"):
        row = await mine.fetch_one("get_thread", *args)
        assert row is not None
        assert column not in row
        await admin.execute(f"alter table threads add column {column} integer")
        row = await (mine.run_in_transaction(work) if column == "two" else work(mine))  # type: ignore[arg-type]
        assert row is not None
        assert column in row


async def test_a_thousand_calls_of_many_tenants_never_meet(
    database_url: str, admin: Any, complaints: list[Any]
) -> None:
    chance = random.Random(5)  # noqa: S311
    owners = [await add_principal(admin) for _ in range(20)]
    threads = {owner: await add_thread(admin, owner) for owner in owners}
    query = without_conditions(TENANT_QUERIES["list_threads"])
    seen = cut_off = 0

    async def call(database: Database, owner: Principal) -> None:
        nonlocal seen
        mine = database.for_tenant(owner)
        thread, who = threads[owner], (owner.tenant_id, owner.user_id)
        match chance.randrange(5):
            case 0:
                rows = [await mine.fetch_one("get_thread", thread, *who)]
                assert rows[0] is not None
            case 1:
                with pytest.raises(asyncpg.UniqueViolationError):
                    await mine.fetch_one("create_thread", thread, *who, None, None, {}, None)
                return
            case 2:
                rows = [await mine.run_in_transaction(
                    lambda t: t.fetch_one(
                        "update_thread", thread, *who, True, str(owner),
                        False, None, False, None, False, None,
                    )
                )]  # fmt: skip
            case _:
                rows = list(await mine.fetch_many("list_threads", *who, None, None, 1000))
        assert {row["tenant_id"] for row in rows if row} == {owner.tenant_id}
        seen += 1

    async def run(database: Database, owner: Principal, is_cut_off: bool, pause_s: float) -> None:
        nonlocal cut_off
        # Started as a call of the pool, so that the cut goes through the driver's own awaits.
        task = database.start(call(database, owner))
        if is_cut_off:
            await asyncio.sleep(pause_s)
            cut_off += task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load_queries(), "list_threads", query)
        async with Database(database_url, size=4) as database:
            await database.ping()
            for _ in range(10):
                async with asyncio.TaskGroup() as group:
                    for _ in range(100):
                        is_cut_off = chance.random() < 0.3
                        group.create_task(
                            run(database, chance.choice(owners), is_cut_off, chance.random() * 0.05)
                        )
            assert await assert_nothing_is_left(database) >= 1
    titles = await admin.fetch("select tenant_id, title from threads where title is not null")
    assert all(str(row["tenant_id"]) in row["title"] for row in titles)
    assert (seen > 500, cut_off > 50) == (True, True), (seen, cut_off)
    assert complaints == []


async def test_a_refused_conflict_is_decided_as_the_tenant_and_accepted_as_the_engine(
    api: Any, make_turn: Any, theirs: Owned
) -> None:
    """`onConflict: reject` changes its role in mid-transaction."""
    turns: TurnService = api.turns
    accepted = await turns.submit(make_turn(key=KEY, policy=ConflictPolicy.REJECT))
    assert not accepted.replayed
    assert accepted.position == 0, "another tenant's turns of the same key are not ahead"
    await assert_nothing_is_left(api.database)
