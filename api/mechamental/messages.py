"""Messages of named threads: list, create, clear, delete, and what a model would be shown."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.mechamental.access import (
    admit,
    find_thread,
    read_path,
    require_organization,
    require_same,
)
from api.mechamental.context import build_context, default_budget
from api.mechamental.dialect import MANNER
from api.mechamental.said import Address, as_new_message, message_to_dict
from api.mechamental.schemas import (
    ConversationContext,
    CreateThreadMessage,
    DeleteMessageQuery,
    Null,
    ReadContext,
    ThreadMessage,
    ThreadMessageList,
    ThreadMessageListQuery,
)
from api.openapi import Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import read_query
from api.wire import json_response
from shared.errors import InvalidRequest, MessageNotFound
from shared.service.named_threads import NamedThread, Scope
from shared.turn.model import Permission

NAMESPACE: Final = (
    "/v1/orgs/{org_id}/workspaces/{workspace_id}/apps/{app_id}/namespaces/{namespace_id}"
)
NAMESPACE_WITHOUT_APP: Final = (
    "/v1/orgs/{org_id}/workspaces/{workspace_id}/namespaces/{namespace_id}"
)
_MESSAGES: Final = "/threads/{thread_id}/messages"
NO_NAMES: Final[frozenset[str]] = frozenset()


async def mm_list_messages(request: Request) -> Response:
    """A page of a thread's messages, oldest first unless asked otherwise."""
    principal = await admit(request, Permission.READ_MESSAGES)
    path, query = read_path(request), read_query(request, ThreadMessageListQuery)
    place = read_cursor(request, query.cursor)
    thread = await find_thread(request, principal, path)
    state = state_of(request)
    rows, cursor = await state.threads.list_messages(
        thread.owner,
        thread.id,
        limit=query.limit,
        cursor=place,
        newest_first=not query.ascending,
    )
    turns = await state.named_threads.turns_of(thread.owner, rows)
    artifacts = await state.named_threads.artifacts_of(thread.owner, thread.id, rows)
    address = Address(path, thread.app)
    return json_response(
        {
            "total": await state.shared_threads.count_messages(thread.owner, thread.id),
            "has_more": cursor is not None,
            "next_cursor": tell_cursor(request, cursor),
            "messages": [
                message_to_dict(
                    row, address, turns.get(row["turn_id"]), artifacts.get(row["id"], ())
                )
                for row in rows
            ],
        }
    )


async def mm_list_messages_without_app(request: Request) -> Response:
    """The same, whatever app the thread is of."""
    return await mm_list_messages(request)


async def mm_create_message(request: Request) -> Response:
    """Stores a message as it is, in a thread that is made if there is none; runs no model."""
    principal = await admit(request, Permission.WRITE_MESSAGES)
    path = read_path(request)
    body = await read_model(request, CreateThreadMessage, reserved=NO_NAMES)
    require_same(path, body)
    if not body.content and not body.tool_calls:
        msg = "Content may be empty only in a message with tool_calls"
        raise InvalidRequest(("body", "content"), msg, "string_too_short")
    await require_organization(request, principal)
    state = state_of(request)
    scope = Scope(body.workspace_id, body.namespace_id, body.app_id)
    if body.parent_message_id is None:
        thread = await state.named_threads.find_or_create(principal, scope, body.thread_id)
    else:  # which is in a thread that is there
        thread = await state.named_threads.find(principal, scope, body.thread_id)
        await _require_parent(request, thread, body.parent_message_id)
    row = await state.shared_threads.append(thread.owner, thread.id, as_new_message(body))
    told = message_to_dict(row, Address(path, thread.app))
    return json_response(told, HTTPStatus.CREATED)


async def mm_create_message_without_app(request: Request) -> Response:
    """The same; the body says which app the thread is of, or null."""
    return await mm_create_message(request)


async def mm_clear_messages(request: Request) -> Response:
    """Cancels what is active in a thread and removes all its messages; the thread stays."""
    principal = await admit(request, Permission.WRITE_MESSAGES)
    thread = await find_thread(request, principal, read_path(request))
    await state_of(request).shared_threads.clear(thread.owner, thread.id)
    return json_response(None)


async def mm_delete_message(request: Request) -> Response:
    """Removes one message; `timestamp` is its created_at."""
    principal = await admit(request, Permission.WRITE_MESSAGES)
    path, query = read_path(request), read_query(request, DeleteMessageQuery)
    thread = await find_thread(request, principal, path)
    threads = state_of(request).shared_threads
    message_id = _as_id(request.path_params["message_id"])
    row = await threads.get_message(thread.owner, thread.id, message_id)
    if row["created_at"] != query.timestamp:
        raise MessageNotFound
    await threads.delete_message(thread.owner, thread.id, message_id)
    return json_response(None)


async def mm_get_context(request: Request) -> Response:
    """The newest messages that fit a budget of tokens, as chat APIs take them."""
    principal = await admit(request, Permission.READ_MESSAGES)
    path = read_path(request)
    body = await read_model(request, ReadContext, reserved=NO_NAMES)
    require_same(path, body)
    thread = await find_thread(request, principal, path)
    state = state_of(request)
    threads, settings = state.named_threads, state.settings
    system: Sequence[Any] = ()
    is_whole = True
    if body.include_system:
        system, is_whole = await threads.read_newest(thread.owner, thread.id, ["system"])
    roles = ["user", "assistant", *(["tool"] if body.include_tool_messages else [])]
    talk, has_all = await threads.read_newest(thread.owner, thread.id, roles)
    context = build_context(
        system,
        talk,
        max_tokens=body.max_tokens
        or default_budget(settings.default_model, settings.history_max_tokens),
        max_messages=body.max_messages,
        is_whole=is_whole and has_all,
        with_tools=body.include_tool_messages,
    )
    return json_response(context)


async def _require_parent(request: Request, thread: NamedThread, parent_id: str) -> None:
    try:
        await state_of(request).shared_threads.get_message(
            thread.owner, thread.id, _as_id(parent_id)
        )
    except MessageNotFound:
        raise MessageNotFound(parent_id) from None


def _as_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise MessageNotFound from None


OPERATIONS: Final = (
    Operation(
        "GET", f"{NAMESPACE}{_MESSAGES}", mm_list_messages, "thread messages", "List messages",
        query=ThreadMessageListQuery, responses={HTTPStatus.OK: ThreadMessageList},
        errors=(403, 422), manner=MANNER,
    ),
    Operation(
        "POST", f"{NAMESPACE}{_MESSAGES}", mm_create_message, "thread messages", "Create message",
        body=CreateThreadMessage, responses={HTTPStatus.CREATED: ThreadMessage},
        errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "DELETE", f"{NAMESPACE}{_MESSAGES}", mm_clear_messages, "thread messages",
        "Clear thread messages", responses={HTTPStatus.OK: Null}, errors=(403, 409, 422),
        manner=MANNER,
    ),
    Operation(
        "POST", f"{NAMESPACE}{_MESSAGES}/context", mm_get_context, "thread messages",
        "Get conversation context", body=ReadContext,
        responses={HTTPStatus.OK: ConversationContext}, errors=(403,), manner=MANNER,
    ),
    Operation(
        "DELETE", f"{NAMESPACE}{_MESSAGES}/{{message_id}}", mm_delete_message, "thread messages",
        "Delete message", query=DeleteMessageQuery, responses={HTTPStatus.OK: Null},
        errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "GET", f"{NAMESPACE_WITHOUT_APP}{_MESSAGES}", mm_list_messages_without_app,
        "thread messages", "List messages without app", query=ThreadMessageListQuery,
        responses={HTTPStatus.OK: ThreadMessageList}, errors=(403, 422), manner=MANNER,
    ),
    Operation(
        "POST", f"{NAMESPACE_WITHOUT_APP}{_MESSAGES}", mm_create_message_without_app,
        "thread messages", "Create message without app", body=CreateThreadMessage,
        responses={HTTPStatus.CREATED: ThreadMessage}, errors=(403, 409), manner=MANNER,
    ),
)  # fmt: skip
