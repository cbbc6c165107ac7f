"""Chats without a thread, of which nothing stays; and whether a chat could be sent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.admission import soon_s
from api.body import read_model, read_value
from api.openapi import Answer, Operation
from api.problems import fields_of
from api.sse import EventStreamResponse
from api.state import state_of
from api.streams.zylon import ZylonEncoder, error_of
from api.waiting import wait_in_seat
from api.wire import json_response
from api.zylon.access import BASE, ORG, admit
from api.zylon.answers import chat_to_dict
from api.zylon.asking import build_turn
from api.zylon.chat_request import ZylonChatRequest, problems_of, warnings_of
from api.zylon.dialect import MANNER, describe
from api.zylon.schemas import DOCUMENTED, ZylonChatAnswer, ZylonValidation
from shared.errors import InvalidRequest, PostgresUnavailable
from shared.ids import new_id
from shared.service.transient_threads import TransientThreads
from shared.turn.model import NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

CHAT: Final = f"{BASE}/chat"
_STATUS_OF: Final = {
    "invalid_request_error": HTTPStatus.BAD_REQUEST,
    "rate_limit_error": HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded_error": HTTPStatus.SERVICE_UNAVAILABLE,
    "timeout_error": HTTPStatus.GATEWAY_TIMEOUT,
}
"""How a chat that failed is answered: it is not the caller's rate that the provider limits."""


async def zylon_chat(request: Request) -> Answer:
    """Asks once, without a thread: the message, or its stream where `stream` is true.

    It runs as any turn does; what was said is deleted when it is over.
    """
    principal = await admit(request)
    state = state_of(request)
    state.admission.require_calm()
    chat = await read_model(request, ZylonChatRequest, reserved=frozenset())
    chat.require_sound()
    new = build_turn(request, principal, new_id(), chat)
    await state.turns.replay_or_refuse(new)  # of a new turn: a refusal, if anything
    if chat.stream:
        with state.admission.stream(principal.counted_as):
            return await _stream(request, new)
    with state.admission.wait(principal.counted_as):
        turn = await _submit(request, new)
        turn = await wait_in_seat(request, principal, principal, turn)
    if not turn.is_terminal:
        turn = await _give_up(request, principal, turn)
    said = await state.interactions.read_said(principal, turn)
    await _remove(state.transient_threads, new.thread_id)
    if turn.error is not None:
        raise _failure(turn.error)
    return json_response(chat_to_dict(turn, said))


async def _submit(request: Request, new: NewTurn) -> Turn:
    state = state_of(request)
    await state.transient_threads.create(new.principal, new.thread_id)
    try:
        return (await state.turns.submit(new)).turn
    except BaseException:
        await _remove(state.transient_threads, new.thread_id)
        raise


async def _stream(request: Request, new: NewTurn) -> Answer:
    state = state_of(request)
    # The reader is there before the turn is announced, so it need not look anywhere else.
    follower = state.streams.hub.follow_new(new.id)
    try:
        turn = await _submit(request, new)
    except BaseException:
        follower.close()
        raise
    follower.begin(turn)
    stream = EventStreamResponse(state.streams, follower, ZylonEncoder(turn), new.principal)
    return _TransientStream(stream, state.transient_threads, new.thread_id)


async def _give_up(request: Request, principal: Principal, turn: Turn) -> Turn:
    """Cancels a chat whose answer nobody could ask for later on.

    The turn, if it has ended otherwise meanwhile.
    """
    state = state_of(request)
    is_parked = turn.status is TurnStatus.AWAITING_APPROVAL
    turn = await state.cancels.cancel(principal, turn.id)
    if turn.status is not TurnStatus.CANCELLED:
        return turn
    await _remove(state.transient_threads, turn.thread_id)
    if state.draining:
        headers = {"retry-after": str(soon_s())}
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "The service is restarting", headers)
    if is_parked:
        raise HTTPException(HTTPStatus.CONFLICT, "A tool call needs an approval: use a thread")
    raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, "The chat took too long; stream it instead")


def _failure(error: dict[str, str]) -> HTTPException:
    told = error_of(error["code"], error["message"])
    status = _STATUS_OF.get(told["type"], HTTPStatus.INTERNAL_SERVER_ERROR)
    return HTTPException(status, told["message"])


async def _remove(transient: TransientThreads, thread_id: UUID) -> None:
    with suppress(PostgresUnavailable):  # then the sweeper does it
        await transient.remove(thread_id)


class _TransientStream:
    """A stream whose thread goes with its end; with the turn's, should that come later."""

    def __init__(
        self, stream: EventStreamResponse, transient: TransientThreads, thread_id: UUID
    ) -> None:
        self.status_code = stream.status_code
        self._stream = stream
        self._transient = transient
        self._thread_id = thread_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope, receive, send)
        await _remove(self._transient, self._thread_id)


async def zylon_validate_chat(request: Request) -> Response:
    """Whether `POST /chat` and an interaction's `pgpt` would take the body. Asks no model."""
    await admit(request)
    try:
        chat = ZylonChatRequest.model_validate(await read_value(request))
    except InvalidRequest as error:
        return _verdict([error.msg], [])
    except ValidationError as error:
        return _verdict([describe(item) for item in fields_of(error, "body").items], [])
    errors = [describe({"loc": ("body", *loc), "msg": msg}) for loc, msg in problems_of(chat)]
    return _verdict(errors, warnings_of(chat))


def _verdict(errors: list[str], warnings: list[str]) -> Response:
    body: dict[str, Any] = {"valid": not errors, "errors": errors or None, "warnings": warnings}
    return json_response(body, HTTPStatus.BAD_REQUEST if errors else HTTPStatus.OK)


OPERATIONS: Final = (
    Operation(
        "POST", CHAT, zylon_chat, "zylon", "Chat without a thread",
        body=ZylonChatRequest, also_documents=DOCUMENTED, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonChatAnswer}, errors=(404, 409, 504), also_streams=True,
        manner=MANNER,
    ),
    Operation(
        "POST", f"{CHAT}/validate", zylon_validate_chat, "zylon", "Validate a chat request",
        body=ZylonChatRequest, also_documents=DOCUMENTED, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonValidation}, errors=(404,),
        manner=replace(MANNER, problems={HTTPStatus.BAD_REQUEST: ZylonValidation}),
    ),
)  # fmt: skip
