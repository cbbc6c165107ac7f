"""Messages of the primary surface: what was said in a thread."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.chat.message_schemas import MessageList, MessageListQuery, message_to_dict
from api.openapi import Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response

MESSAGES: Final = "/api/v1/chat/threads/{thread_id}/messages"


async def list_messages(request: Request) -> Response:
    """A thread's messages in the order they came, without hidden ones."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    query = read_query(request, MessageListQuery)
    rows, cursor = await state_of(request).threads.list_messages(
        principal,
        thread_id,
        limit=query.limit,
        cursor=read_cursor(request, query.cursor),
        newest_first=query.order == "desc",
    )
    return json_response(
        {
            "items": [message_to_dict(row) for row in rows],
            "nextCursor": tell_cursor(request, cursor),
        }
    )


OPERATIONS: Final = (
    Operation(
        "GET", MESSAGES, list_messages, "messages", "List messages",
        query=MessageListQuery, responses={HTTPStatus.OK: MessageList},
    ),
)  # fmt: skip
