"""Chats: create, list, read, delete. A chat is a thread that is shared with its team."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.kodey.access import admit, admit_to_all_chats
from api.kodey.dialect import MANNER
from api.kodey.headers import answer
from api.kodey.schemas import (
    KodeyChat,
    KodeyChatList,
    KodeyChatQuery,
    KodeyChatWithMessages,
    KodeyCreateChat,
    second,
)
from api.openapi import Operation
from api.state import state_of
from api.validation import read_query
from shared.errors import InvalidRequest, ThreadNotFound
from shared.service.chats import Chat
from shared.turn.model import Principal

CHATS: Final = "/chat"
CHAT: Final = f"{CHATS}/{{chat_id}}"


async def kodey_create_chat(request: Request) -> Response:
    """A new chat with an agent of the team."""
    principal = await admit(request)
    body = await read_model(request, KodeyCreateChat, reserved=frozenset())
    agent_id, mode = await state_of(request).agent_specs.find(principal, body.agent_id)
    if mode != "primary":
        raise InvalidRequest(("body", "agentId"), "A sub-agent has no chats of its own")
    chat = await state_of(request).chats.create(
        principal,
        agent_id=agent_id,
        end_user=body.user_id or None,
        metadata=body.metadata or {},
    )
    return answer(request, _to_dict(chat))


async def kodey_list_chats(request: Request) -> Response:
    """The team's chats, newest activity first, at most 1000; of a publishable key its own."""
    principal = await admit_to_all_chats(request)
    query = read_query(request, KodeyChatQuery)
    chats = await state_of(request).chats.list_chats(
        principal, end_user=query.user_id or None, agent_type=query.agent_type or None
    )
    listed = [
        {
            "id": str(chat.id),
            "agentId": str(chat.agent_id),
            "userId": chat.end_user,
            "createdAt": second(chat.created_at),
        }
        for chat in chats
    ]
    return answer(request, {"chats": listed})


async def kodey_get_chat(request: Request) -> Response:
    """One chat with its messages, as List Messages has them."""
    principal = await admit(request)
    chat = await find_chat(request, principal)
    return answer(request, _to_dict(chat) | {"messages": await list_messages(request, chat)})


async def kodey_delete_chat(request: Request) -> Response:
    """Cancels what is active in a chat, then makes it disappear."""
    principal = await admit_to_all_chats(request)
    chat = await find_chat(request, principal)
    await state_of(request).threads.delete(chat.owner, chat.id)
    return answer(request, None, 204)


async def find_chat(request: Request, principal: Principal) -> Chat:
    """The chat that the path names.

    Raises:
        ThreadNotFound: unknown, deleted, not in the key's reach, or no id at all.
    """
    try:
        chat_id = UUID(request.path_params["chat_id"])
    except ValueError:
        raise ThreadNotFound from None
    return await state_of(request).chats.get(principal, chat_id)


async def list_messages(request: Request, chat: Chat) -> list[dict[str, Any]]:
    """What user and agent have said, oldest first."""
    chats = state_of(request).chats
    messages = await chats.list_messages(chat)
    if chat.untold_seq is not None:  # had ended before, and so is among them
        await chats.note_told(chat, chat.untold_seq)
    return [
        {
            "id": str(row["id"]),
            "content": row["content"],
            "role": row["role"],
            "createdAt": second(row["created_at"]),
        }
        for row in messages
    ]


def _to_dict(chat: Chat) -> dict[str, Any]:
    return {
        "id": str(chat.id),
        "agentId": str(chat.agent_id),
        "teamId": str(chat.owner.tenant_id),
        "userId": chat.end_user,
        "metadata": chat.metadata,
        "createdAt": second(chat.created_at),
    }


OPERATIONS: Final = (
    Operation(
        "POST", CHATS, kodey_create_chat, "kodey", "Create a chat",
        body=KodeyCreateChat, responses={200: KodeyChat}, errors=(404,), manner=MANNER,
    ),
    Operation(
        "GET", CHATS, kodey_list_chats, "kodey", "List chats",
        query=KodeyChatQuery, responses={200: KodeyChatList}, errors=(403,), manner=MANNER,
    ),
    Operation(
        "GET", CHAT, kodey_get_chat, "kodey", "Get a chat",
        responses={200: KodeyChatWithMessages}, manner=MANNER,
    ),
    Operation(
        "DELETE", CHAT, kodey_delete_chat, "kodey", "Delete a chat",
        responses={204: None}, errors=(403, 409), manner=MANNER,
    ),
)  # fmt: skip
