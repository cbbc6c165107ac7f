"""AG-UI: one operation, which runs a turn and streams it.

A run is a turn: `runId` is its idempotency key, so that a run that is sent again is watched from
its beginning. A run with `resume` goes on with the turn that was parked.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.requests import Request

from api.ag_ui.schemas import ContextEntry, ResumeEntry, RunAgentInput
from api.auth import authenticate
from api.body import read_model
from api.openapi import EVENT_STREAM, Answer, Operation
from api.request_headers import TIMEZONE_HEADER, check_key, read_timezone
from api.sse import EventStreamResponse
from api.state import state_of
from api.streams.ag_ui import AgUiEncoder
from shared.errors import ConcurrencyConflict, InvalidRequest, ThreadNotFound
from shared.service.new_turn import choose_model, compose_turn
from shared.service.threads import thread_id_of_name
from shared.turn.events import START, Cursor
from shared.turn.model import Accepted, NewTurn, Principal
from shared.turn.state import TurnStatus

PATH: Final = "/api/v1/agui"


async def run_agent(request: Request) -> Answer:
    """Runs a turn, or goes on with one that waits for approvals, and streams it as AG-UI events.

    `threadId` is the id of a thread, or any name: each user's names have threads of their own.
    """
    principal = await authenticate(request)
    state_of(request).admission.require_calm()
    with state_of(request).admission.stream(principal.counted_as):
        body = await read_model(request, RunAgentInput, reserved=frozenset())
        check_key(body.run_id, ("body", "runId"))
        if body.resume:
            return await _resume(request, principal, body)
        try:
            return await _run(request, principal, body)
        except InvalidRequest as error:  # the core knows other names of these members
            error.loc = _place_in_run(error.loc)
            raise


async def _run(request: Request, principal: Principal, body: RunAgentInput) -> Answer:
    state = state_of(request)
    text, props = body.user_text(), body.props()
    model_id = choose_model(state.settings, props.model_id, props.settings)
    known = await state.threads.find_by_name(principal, body.thread_id)
    thread_id = known or thread_id_of_name(principal, body.thread_id)
    instructions = body.instructions()
    new = compose_turn(
        principal,
        thread_id,
        text,
        scope=f"agui:{principal.user_id}:{thread_id}",
        key=body.run_id,
        asked=[str(thread_id), text, model_id, props.settings, instructions],
        model_id=model_id,
        names_model=props.model_id is not None,
        settings={
            **props.settings,
            "timezone": read_timezone(request),
            "trigger": "submit-message",
        },
        system_prompt=instructions,
    )
    if known is None:  # the turn makes it: a run that is refused leaves no thread
        accepted = await state.turns.submit(replace(new, makes_thread=True))
    else:
        accepted = await _go_on(request, new)
    streams, turn = state.streams, accepted.turn
    return EventStreamResponse(
        streams,
        streams.hub.follow(turn, START),
        AgUiEncoder(turn, body.thread_id, body.run_id),
        principal,
        position=accepted.position or None,
    )


def _place_in_run(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    match loc:
        case ("header", "Idempotency-Key"):
            return ("body", "runId")
        case ("body", ("modelId" | "settings") as name, *rest):
            return ("body", "forwardedProps", name, *rest)
        case _:
            return loc


async def _go_on(request: Request, new: NewTurn) -> Accepted:
    turns = state_of(request).turns
    # A run that was sent before is watched, whatever the thread waits for.
    replay = await turns.find_replay(new)
    if replay is not None:
        return replay
    active = await turns.find_active(new.principal, new.thread_id)
    if active is not None and active.status is TurnStatus.AWAITING_APPROVAL:
        raise ConcurrencyConflict(str(active.id))
    return await turns.submit(new)


async def _resume(request: Request, principal: Principal, body: RunAgentInput) -> Answer:
    state = state_of(request)
    decisions = body.decisions()
    thread_id = await state.threads.find_by_name(principal, body.thread_id)
    if thread_id is None:
        raise ThreadNotFound
    try:
        turn = await state.approvals.decide_in_thread(principal, thread_id, decisions)
    except InvalidRequest as error:  # it names the places of another body
        raise InvalidRequest(("body", "resume"), error.msg, error.type) from None
    if turn is None:
        msg = "No turn of the thread waits for these tool calls to be approved"
        raise InvalidRequest(("body", "resume"), msg)
    # The client holds what was said until the turn was parked; the attempt after that begins there.
    attempt = turn.attempt + 1 if turn.status is TurnStatus.PENDING else turn.attempt
    streams = state.streams
    return EventStreamResponse(
        streams,
        streams.hub.follow(turn, Cursor(attempt, 0)),
        AgUiEncoder(turn, body.thread_id, body.run_id, is_continued=True),
        principal,
    )


OPERATIONS: Final = (
    Operation(
        "POST", PATH, run_agent, "ag-ui", "Run a turn and stream it as AG-UI events",
        body=RunAgentInput, also_documents=(ContextEntry, ResumeEntry), headers=(TIMEZONE_HEADER,),
        responses={HTTPStatus.OK: EVENT_STREAM}, errors=(404, 409),
    ),
)  # fmt: skip
