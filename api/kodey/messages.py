"""Messages: list them, and send one, which is answered with what the agent says to it.

A message is a turn like any other: written down, queued behind what its chat has not answered yet,
run by a worker. Here alone somebody waits for its end, and only for so long: whatever they are
answered, a turn that was accepted goes on. While it is its chat's newest, the same message sent
again is that turn, until somebody was told how it ended.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.admission import soon_s
from api.body import read_model
from api.connection import end_when_lost
from api.kodey.access import admit
from api.kodey.chats import CHAT, find_chat, list_messages
from api.kodey.dialect import MANNER
from api.kodey.headers import answer
from api.kodey.schemas import (
    KodeyAnswer,
    KodeyCreateMessage,
    KodeyMessageList,
    second,
)
from api.openapi import Operation
from api.request_headers import KEY_HEADER, read_key_header
from api.state import state_of
from shared.errors import PostgresUnavailable, TurnNotFound
from shared.service.chats import Chat
from shared.service.new_turn import compose_turn
from shared.turn.model import CredentialKind, NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

MESSAGES: Final = f"{CHAT}/message"
_REPLAYED: Final = {"idempotency-replayed": "true"}


async def kodey_create_message(request: Request) -> Response:
    """Sends a message, and answers with the agent's.

    What else it is answered with stands in `docs/surfaces/kodey.md`. Unless the turn failed, was
    cancelled or expired, the same content sent again gets the answer.
    """
    principal = await admit(request)
    state_of(request).admission.require_calm()
    body = await read_model(request, KodeyCreateMessage, reserved=frozenset())
    key = read_key_header(request)
    chat = await find_chat(request, principal)
    with state_of(request).admission.wait(principal.counted_as):
        turn, is_replayed = await _submit(request, chat, body.content, key)
        async with end_when_lost(request):
            turn = await _wait(request, chat, turn)
    # In which time the key may have been revoked.
    await state_of(request).credentials.require_valid(principal)
    said = await _find_said(request, chat, turn)
    if turn.is_terminal:
        with suppress(PostgresUnavailable):  # then the same message is answered with this once more
            await state_of(request).chats.note_told(chat, turn.accept_seq)
    if said is None:
        raise _excuse(request, principal, turn)
    return answer(request, said, 200, _REPLAYED if is_replayed else None)


async def kodey_list_messages(request: Request) -> Response:
    """What user and agent have said, oldest first: the newest 1000, of 32 MiB at most."""
    principal = await admit(request)
    chat = await find_chat(request, principal)
    return answer(request, {"messages": await list_messages(request, chat)})


async def _submit(request: Request, chat: Chat, text: str, key: str | None) -> tuple[Turn, bool]:
    """The message's turn, and whether it was there before."""
    state = state_of(request)
    if key is None:
        turn_id = await state.chats.find_same_question(chat, text)
        if turn_id is not None:
            with suppress(TurnNotFound):  # deleted
                return await state.turns.get(chat.owner, turn_id), True
    model_id = state.settings.default_model
    accepted = await state.turns.submit(_new_turn(chat, text, key, model_id))
    return accepted.turn, accepted.replayed


def _new_turn(chat: Chat, text: str, key: str | None, model_id: str) -> NewTurn:
    new = compose_turn(
        chat.owner,
        chat.id,
        text,
        scope=f"kodey:{chat.id}",
        key=key,
        asked=[str(chat.id), text],
        model_id=model_id,
        names_model=False,
        # Whoever talks, perhaps by a key that is in every browser, is not the key's owner.
        settings={"trigger": "submit-message", "isAnonymous": True},
    )
    if key is not None:
        return new
    # Without a key, the same words said to the chat in the same state are the same message: so two
    # requests of the same moment are one, like two that follow each other.
    state = f"{chat.last_turn_id}:{chat.updated_at.isoformat()}:{new.fingerprint.hex()}"
    return replace(new, idempotency_scope=f"kodey-state:{chat.id}", idempotency_key=state)


async def _wait(request: Request, chat: Chat, turn: Turn) -> Turn:
    """The turn once it has ended or asks for an approval, or as it is when the time is over.

    Raises:
        HTTPException: 429, it is still behind another of its chat.
    """
    turns, settings = state_of(request).turns, state_of(request).settings
    if turn.status is TurnStatus.AWAITING_APPROVAL:
        return turn
    first_s = min(settings.kodey_busy_wait_s, settings.kodey_wait_s)
    turn = await turns.wait(chat.owner, turn, first_s)
    is_behind = turn.status is TurnStatus.PENDING and not state_of(request).draining
    if is_behind and await turns.count_ahead(turn):
        message = "The chat is still answering an earlier message; this one comes after it"
        raise HTTPException(429, message, {"retry-after": str(soon_s())})
    if turn.is_terminal or turn.status is TurnStatus.AWAITING_APPROVAL:
        return turn
    return await turns.wait(chat.owner, turn, settings.kodey_wait_s - first_s)


async def _find_said(request: Request, chat: Chat, turn: Turn) -> dict[str, Any] | None:
    """The agent's message; None: there is none, or not yet.

    Raises:
        MessageNotFound: it was answered anew meanwhile.
    """
    if turn.status is not TurnStatus.COMPLETED:
        return None
    message_id, content, at = turn.planned_output_message_id, "", turn.ended_at or turn.updated_at
    if turn.output_message_id is not None:  # else it had nothing to say
        row = await state_of(request).shared_threads.get_message(
            chat.owner, chat.id, turn.output_message_id
        )
        message_id, content, at = row["id"], row["content"], row["created_at"]
    return {
        "id": str(message_id),
        "chatId": str(chat.id),
        "content": content,
        "role": "assistant",
        "createdAt": second(at),
    }


def _excuse(request: Request, principal: Principal, turn: Turn) -> HTTPException:
    """Why there is no message: 409, 500, 503 or 504."""
    match turn.status:
        case TurnStatus.FAILED:
            is_secret = principal.kind is CredentialKind.KODEY_SECRET
            why = turn.error["message"] if turn.error and is_secret else None
            return HTTPException(500, why or "The agent could not answer")
        case TurnStatus.CANCELLED:
            return HTTPException(409, "The answer was cancelled")
        case TurnStatus.EXPIRED:
            return HTTPException(504, "The agent did not begin in time; the message has no answer")
        case TurnStatus.AWAITING_APPROVAL:
            return HTTPException(
                409,
                "The agent waits for somebody to approve a tool call; its answer will be among the"
                " messages of the chat",
            )
        case _:
            again = "Send the same message again to get the answer"
            headers = {"retry-after": str(soon_s())}
            if state_of(request).draining:
                return HTTPException(503, f"The server is going down. {again}", headers)
            return HTTPException(504, f"The agent is still answering. {again}", headers)


OPERATIONS: Final = (
    Operation(
        "POST", MESSAGES, kodey_create_message, "kodey", "Send a message",
        body=KodeyCreateMessage, responses={200: KodeyAnswer}, errors=(409, 504), manner=MANNER,
        headers=(KEY_HEADER,),
    ),
    Operation(
        "GET", MESSAGES, kodey_list_messages, "kodey", "List messages",
        responses={200: KodeyMessageList}, manner=MANNER,
    ),
)  # fmt: skip
