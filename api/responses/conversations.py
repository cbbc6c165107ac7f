"""Conversations: threads, as the OpenAI Responses surface shows them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate_bearer
from api.body import read_model
from api.openapi import Operation
from api.responses.dialect import MANNER
from api.responses.schemas import (
    Conversation,
    CreateConversation,
    DeletedConversation,
    InputMessage,
    ItemList,
    ItemsQuery,
    UpdateConversation,
    item_list,
    message_item,
    read_given,
)
from api.state import state_of
from api.streams.responses_object import conversation_id, message_id, read_id, read_message_id
from api.validation import read_query
from api.wire import json_response
from shared.errors import InvalidRequest, MessageNotFound, ThreadNotFound
from shared.service.threads import cursor_of_message
from shared.turn.model import Principal

PREFIX: Final = "/v1/conversations"
CONVERSATION: Final = f"{PREFIX}/{{conversation_id}}"
_ITEMS: Final = ("body", "items")


async def create_conversation(request: Request) -> Response:
    """Makes a conversation, with messages if there are any; no model runs."""
    principal = await authenticate_bearer(request)
    body = await read_model(request, CreateConversation, reserved=frozenset())
    given, decisions = read_given(body.items or [], _ITEMS)
    if decisions:
        raise InvalidRequest(_ITEMS, "Decisions belong to a response", "unsupported_value")
    thread_id = await state_of(request).exchanges.begin(
        principal, metadata=dict(body.metadata or {}), given=given
    )
    return _show(await state_of(request).threads.get(principal, thread_id))


async def get_conversation(request: Request) -> Response:
    """One conversation."""
    principal = await authenticate_bearer(request)
    return _show(await state_of(request).threads.get(principal, _path_id(request)))


async def update_conversation(request: Request) -> Response:
    """Replaces the metadata of a conversation."""
    principal = await authenticate_bearer(request)
    thread_id = _path_id(request)
    body = await read_model(request, UpdateConversation, reserved=frozenset())
    row = await state_of(request).threads.update(principal, thread_id, metadata=body.metadata)
    return _show(row)


async def delete_conversation(request: Request) -> Response:
    """Cancels what is active in a conversation, and deletes it with all its responses."""
    principal = await authenticate_bearer(request)
    thread_id = _path_id(request)
    await state_of(request).threads.delete(principal, thread_id)
    return json_response(
        {"id": conversation_id(thread_id), "object": "conversation.deleted", "deleted": True}
    )


async def list_conversation_items(request: Request) -> Response:
    """The messages of a conversation that have a text; of tool calls its responses tell."""
    principal = await authenticate_bearer(request)
    query = read_query(request, ItemsQuery)
    thread_id = _path_id(request)
    state = state_of(request)
    await state.threads.get(principal, thread_id)
    cursor = None
    if query.after is not None:
        cursor = await _place_of(request, principal, thread_id, query)
    items: list[dict[str, Any]] = []
    has_more = True
    while has_more and len(items) <= query.limit:
        rows, cursor = await state.threads.list_messages(
            principal,
            thread_id,
            limit=query.limit + 1,
            cursor=cursor,
            newest_first=query.order == "desc",
        )
        has_more = cursor is not None
        items += [
            message_item(message_id(row["id"]), row["role"], row["content"])
            for row in rows
            if row["role"] != "tool" and row["content"]
        ]
    return json_response(item_list(items[: query.limit], has_more=len(items) > query.limit))


async def _place_of(
    request: Request, principal: Principal, thread_id: UUID, query: ItemsQuery
) -> str:
    item_id = read_message_id(query.after or "")
    if item_id is None:
        raise MessageNotFound
    row = await state_of(request).shared_threads.get_message(principal, thread_id, item_id)
    return cursor_of_message(thread_id, row["seq"], newest_first=query.order == "desc")


def _path_id(request: Request) -> UUID:
    thread_id = read_id(request.path_params["conversation_id"], "conv")
    if thread_id is None:
        raise ThreadNotFound
    return thread_id


def _show(row: Any) -> Response:
    return json_response(
        {
            "id": conversation_id(row["id"]),
            "object": "conversation",
            "created_at": int(row["created_at"].timestamp()),
            "metadata": row["metadata"],
        }
    )


OPERATIONS: Final = (
    Operation(
        "POST", PREFIX, create_conversation, "conversations", "Create a conversation",
        body=CreateConversation, also_documents=(InputMessage,),
        responses={HTTPStatus.OK: Conversation}, manner=MANNER,
    ),
    Operation(
        "GET", CONVERSATION, get_conversation, "conversations", "Get a conversation",
        responses={HTTPStatus.OK: Conversation}, manner=MANNER,
    ),
    Operation(
        "POST", CONVERSATION, update_conversation, "conversations", "Update a conversation",
        body=UpdateConversation, responses={HTTPStatus.OK: Conversation}, manner=MANNER,
    ),
    Operation(
        "DELETE", CONVERSATION, delete_conversation, "conversations", "Delete a conversation",
        responses={HTTPStatus.OK: DeletedConversation}, errors=(409,), manner=MANNER,
    ),
    Operation(
        "GET", f"{CONVERSATION}/items", list_conversation_items, "conversations",
        "List the messages of a conversation",
        query=ItemsQuery, responses={HTTPStatus.OK: ItemList}, manner=MANNER,
    ),
)  # fmt: skip
