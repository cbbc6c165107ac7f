"""From a request for a response to an accepted turn: which thread it belongs to is decided here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request

from api.request_headers import read_key_header, read_timezone
from api.responses.schemas import CreateResponse, Input
from api.state import state_of
from api.streams.responses_object import ASKED, Asked, approval_id, read_id
from shared.errors import (
    ConcurrencyConflict,
    InvalidRequest,
    MessageNotFound,
    NotFound,
    Overloaded,
    RequestRejected,
    ThreadMovedOn,
    TurnNotFound,
)
from shared.ids import new_id
from shared.service.new_turn import choose_model, compose_turn
from shared.turn.model import NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

_PREVIOUS: Final = ("body", "previous_response_id")
_INPUT: Final = ("body", "input")


async def accept_response(request: Request, principal: Principal, body: CreateResponse) -> Turn:
    """The turn of a response: a new one, that of a replay, or the one that its decisions resume.

    Raises:
        InvalidRequest: something about the request is wrong.
        ThreadNotFound: no such conversation.
        ConcurrencyConflict: the response to go on from has not ended, and is not the newest.
        ApprovalConflict: decided otherwise before.
    """
    body.require_supported()
    said, conversation_id = body.read_input(), body.conversation_id()
    if said.decisions:
        return await _decide(request, principal, body.previous_response_id, said)
    new = _build(request, principal, body, said.text)
    turns = state_of(request).turns
    replay = await turns.replay_or_refuse(new)
    if replay is None and new.client_chose_key:
        replay = await turns.find_replay(new)
    if replay is not None:
        return replay.turn
    if conversation_id is not None:
        return await _continue_conversation(request, new, conversation_id, said)
    # Not before the replay, which is told whatever has become of the response it went on from.
    if body.previous_response_id is not None:
        previous = await _find_previous(request, principal, body.previous_response_id)
        return await _continue_response(request, new, previous, said)
    return await _begin(request, new, said, None)


async def _decide(
    request: Request, principal: Principal, previous_id: str | None, said: Input
) -> Turn:
    if previous_id is None:
        msg = "Decisions on tool calls name the response that asked for them"
        raise InvalidRequest(_PREVIOUS, msg, "missing")
    previous = await _find_previous(request, principal, previous_id)
    try:
        return await state_of(request).approvals.decide(principal, previous.id, said.decisions)
    except InvalidRequest as error:  # it names places and ids of another body
        decided = {decision.tool_call_id for decision in said.decisions}
        asked = [approval.tool_call_id for approval in previous.approvals]
        missing = ", ".join(approval_id(call) for call in asked if call not in decided)
        msg = f"Decisions are missing for: {missing}" if error.type == "missing" else error.msg
        raise InvalidRequest(_INPUT, msg, error.type) from None


async def _continue_conversation(
    request: Request, new: NewTurn, conversation_id: str, said: Input
) -> Turn:
    thread_id = read_id(conversation_id, "conv") or UUID(int=0)
    await state_of(request).threads.get(new.principal, thread_id)
    try:
        wanted = replace(_on(new, thread_id), given=tuple(said.given))
        return (await state_of(request).turns.submit(wanted)).turn
    except ThreadMovedOn:
        msg = "In a conversation that has responses, the input is one message of the user"
        raise InvalidRequest(_INPUT, msg) from None


async def _continue_response(request: Request, new: NewTurn, previous: Turn, said: Input) -> Turn:
    """On the thread of `previous` where that is its newest turn, else on a fork of it."""
    if previous.status is TurnStatus.AWAITING_APPROVAL:
        msg = "The response waits for approvals: its input is mcp_approval_response items"
        raise InvalidRequest(_INPUT, msg)
    if not said.given:
        follows = replace(_on(new, previous.thread_id), follows=previous.id)
        try:
            return (await state_of(request).turns.submit(follows)).turn
        except ThreadMovedOn:
            pass  # somebody has gone on from it before
    if not previous.is_terminal:
        raise ConcurrencyConflict(str(previous.id))
    return await _begin(request, new, said, previous)


async def _begin(request: Request, new: NewTurn, said: Input, behind: Turn | None) -> Turn:
    """On a thread of its own, which is left to nobody when the turn is refused."""
    state, principal = state_of(request), new.principal
    thread_id = await state.exchanges.begin(principal, metadata={}, given=said.given, behind=behind)
    asked = {**new.settings[ASKED], "made_thread": True}
    settings = {**new.settings, ASKED: asked}
    try:
        accepted = await state.turns.submit(replace(_on(new, thread_id), settings=settings))
    except (RequestRejected, Overloaded):
        await state.threads.delete(principal, thread_id)
        raise
    if accepted.replayed:
        await state.threads.delete(principal, thread_id)
    return accepted.turn


def _on(new: NewTurn, thread_id: UUID) -> NewTurn:
    return replace(new, thread_id=thread_id, concurrency_key=f"thread:{thread_id}")


async def _find_previous(request: Request, principal: Principal, text: str) -> Turn:
    try:
        return await find_response(request, principal, text)
    except NotFound:
        msg = "There is no such response to go on from"
        raise InvalidRequest(_PREVIOUS, msg, "previous_response_not_found") from None


async def find_response(request: Request, principal: Principal, text: str) -> Turn:
    """The turn behind a response's id.

    Raises:
        TurnNotFound: unknown, deleted, somebody else's, or no such id.
    """
    turn_id = read_id(text, "resp")
    if turn_id is None:
        raise TurnNotFound
    state = state_of(request)
    turn = await state.turns.get(principal, turn_id)
    try:
        await state.exchanges.question(principal, turn)
    except MessageNotFound:
        raise TurnNotFound from None
    return turn


def _build(request: Request, principal: Principal, body: CreateResponse, text: str) -> NewTurn:
    """A validated turn of no thread yet.

    Raises:
        InvalidRequest: model, settings or idempotency key cannot be used.
    """
    settings = {**body.settings, **_sampling(body)}
    model_id = choose_model(state_of(request).settings, body.model, settings)
    of_protocol = Asked(
        background=bool(body.background),
        metadata=body.metadata or {},
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
    )
    return compose_turn(
        principal,
        new_id(),  # it gets its thread later on
        text,
        scope=f"responses:{principal.user_id}",
        key=read_key_header(request),
        # How the answer is brought decides nothing.
        asked=body.model_dump(exclude={"stream", "background", "store"}),
        model_id=model_id,
        names_model=body.model is not None,
        settings={
            **settings,
            "timezone": read_timezone(request),
            "trigger": "submit-message",
            ASKED: of_protocol.model_dump(),
        },
        system_prompt=body.instructions,
    )


def _sampling(body: CreateResponse) -> dict[str, Any]:
    wanted = {
        "temperature": body.temperature,
        "topP": body.top_p,
        "maxTokens": body.max_output_tokens,
    }
    return {name: value for name, value in wanted.items() if value is not None}
