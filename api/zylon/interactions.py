"""Interactions of a thread: ask, and wait for the answer or stream it; read, cancel, delete."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.openapi import EVENT_STREAM, Answer, Operation
from api.request_headers import KEY_HEADER, read_key_header
from api.sse import EventStreamResponse
from api.state import state_of
from api.streams.zylon import ZylonEncoder
from api.validation import read_query
from api.waiting import wait_for_end
from api.wire import json_response
from api.zylon import ids
from api.zylon.access import BASE, ORG, admit
from api.zylon.answers import events_of, interaction_to_dict
from api.zylon.asking import asked_details, build_turn, with_surroundings
from api.zylon.dialect import MANNER
from api.zylon.paging import Page, ZylonPageQuery, by_seq
from api.zylon.schemas import (
    DOCUMENTED,
    ZylonCreateInteraction,
    ZylonInteractionAnswer,
    ZylonInteractionPage,
)
from api.zylon.threads import THREAD
from shared.errors import InvalidRequest, NotFound
from shared.service.interactions import Interaction
from shared.turn.events import START, EventBatch, encode_event
from shared.turn.messages import is_truncated
from shared.turn.model import Principal
from shared.turn.replay import ended_event
from shared.turn.state import TurnStatus

INTERACTIONS: Final = f"{THREAD}/interaction"
INTERACTION: Final = f"{BASE}/interaction/{{interaction_id}}"
_STREAM_HEADERS: Final = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


async def zylon_create_interaction(request: Request) -> Response:
    """Asks, and answers once the interaction is over; at once where `pgpt.stream` is true.

    Where it takes longer than one request may, the answer says Processing as well. Sent again under
    the same `Idempotency-Key` it is the same interaction.
    """
    principal = await admit(request)
    state = state_of(request)
    state.admission.require_calm()
    body = await read_model(request, ZylonCreateInteraction, reserved=frozenset())
    body.pgpt.require_sound("pgpt")
    _require_same_thread(request, body.thread_id)
    key = read_key_header(request)
    thread = await state.project_threads.find(principal, ids.read_path(request, "thread"))
    new = build_turn(request, thread.owner, thread.id, body.pgpt, asked_details(body), key)
    # What was asked before is told, whatever has become of its artifacts and its agent.
    accepted = await state.turns.find_replay(new) if new.client_chose_key else None
    if accepted is None:
        new = await with_surroundings(request, principal, thread, body, new)
        accepted = await state.turns.submit(new)
    turn = accepted.turn
    if not body.pgpt.stream:
        turn = await wait_for_end(request, principal, thread.owner, turn)
    (told,) = await state.interactions.describe(thread.owner, thread.project_id, [turn])
    headers = {"location": f"{BASE}/interaction/{ids.show('inter', turn.id)}"}
    if accepted.replayed:
        headers["idempotency-replayed"] = "true"
    return json_response(interaction_to_dict(told), HTTPStatus.CREATED, headers)


def _require_same_thread(request: Request, told: str | None) -> None:
    if told is None:
        return
    try:
        is_same = ids.read("thread", told) == ids.read_path(request, "thread")
    except NotFound:
        is_same = told == request.path_params["thread_id"]  # then the path's is told of
    if not is_same:
        raise InvalidRequest(("body", "thread_id"), "It is not the thread of the path")


async def zylon_list_interactions(request: Request) -> Response:
    """The interactions of a thread, oldest first."""
    principal = await admit(request)
    query = read_query(request, ZylonPageQuery)
    thread_id = ids.read_path(request, "thread")
    page = Page(request, query, by_seq(f"interactions:{thread_id}"))
    thread = await state_of(request).project_threads.find(principal, thread_id)
    found, total = await state_of(request).interactions.list_interactions(thread, page.part)
    return json_response(
        page.tell(found, total, interaction_to_dict, lambda one: one.turn.accept_seq)
    )


async def zylon_get_interaction(request: Request) -> Response:
    """One interaction."""
    _, found = await _find(request, is_vital=True)
    return json_response(interaction_to_dict(found))


async def zylon_delete_interaction(request: Request) -> Response:
    """Cancels an interaction that is active, makes it disappear, and shows it a last time.

    No later interaction of the thread knows of it.
    """
    owner, found = await _find(request)
    state = state_of(request)
    turn = await state.cancels.cancel(owner, found.turn.id)
    (told,) = await state.interactions.describe(owner, found.project_id, [turn])
    await state.exchanges.hide(owner, turn)
    return json_response(interaction_to_dict(told))


async def zylon_cancel_interaction(request: Request) -> Response:
    """Stops an interaction; 409 when it was over already, or is being stopped."""
    owner, found = await _find(request, is_vital=True)
    turn, is_first = await state_of(request).cancels.cancel_once(owner, found.turn.id)
    if not is_first or turn.status is not TurnStatus.CANCELLED:
        how = "completed" if turn.is_terminal else "being cancelled"
        raise HTTPException(HTTPStatus.CONFLICT, f"The interaction is already {how}")
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def zylon_stream_interaction(request: Request) -> Answer:
    """All that an interaction says, from its start, to its end."""
    principal = await admit(request)
    with state_of(request).admission.stream(principal.counted_as):
        found = await _find_for(request, principal)
        if found.turn.is_terminal:
            return _replay(found)
        streams = state_of(request).streams
        return EventStreamResponse(
            streams, streams.hub.follow(found.turn), ZylonEncoder(found.turn), principal
        )


def _replay(found: Interaction) -> Response:
    """Of one that is over: told by what is stored, whatever has become of its event log."""
    turn, encoder = found.turn, ZylonEncoder(found.turn)
    truncated = is_truncated(row["raw_data"] for row in found.said)
    events = [*events_of(found.said), ended_event(turn, truncated)]
    batch = EventBatch(max(turn.attempt, 1), 1, [encode_event(event) for event in events])
    frames = encoder.open(START) + encoder.encode(batch)
    return Response(frames, headers=_STREAM_HEADERS, media_type=EVENT_STREAM)


async def _find(request: Request, *, is_vital: bool = False) -> tuple[Principal, Interaction]:
    """The owner to act as, and the interaction in the path."""
    principal = await admit(request, is_vital=is_vital)
    found = await _find_for(request, principal)
    return principal.acting_as(found.turn.user_id), found


async def _find_for(request: Request, principal: Principal) -> Interaction:
    interaction_id = ids.read_path(request, "inter")
    return await state_of(request).interactions.find(principal, interaction_id)


OPERATIONS: Final = (
    Operation(
        "POST", INTERACTIONS, zylon_create_interaction, "zylon", "Create an interaction",
        body=ZylonCreateInteraction, also_documents=DOCUMENTED, headers=(ORG, KEY_HEADER),
        responses={HTTPStatus.CREATED: ZylonInteractionAnswer}, errors=(409,), manner=MANNER,
    ),
    Operation(
        "GET", INTERACTIONS, zylon_list_interactions, "zylon", "List the interactions of a thread",
        query=ZylonPageQuery, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonInteractionPage}, manner=MANNER,
    ),
    Operation(
        "GET", INTERACTION, zylon_get_interaction, "zylon", "Get an interaction",
        headers=(ORG,), responses={HTTPStatus.OK: ZylonInteractionAnswer}, manner=MANNER,
    ),
    Operation(
        "DELETE", INTERACTION, zylon_delete_interaction, "zylon", "Delete an interaction",
        headers=(ORG,), responses={HTTPStatus.OK: ZylonInteractionAnswer}, manner=MANNER,
    ),
    Operation(
        "POST", f"{INTERACTION}/cancel", zylon_cancel_interaction, "zylon", "Cancel an interaction",
        headers=(ORG,), responses={HTTPStatus.NO_CONTENT: None}, errors=(409,), manner=MANNER,
    ),
    Operation(
        "GET", f"{INTERACTION}/stream", zylon_stream_interaction, "zylon", "Stream an interaction",
        headers=(ORG,), responses={HTTPStatus.OK: EVENT_STREAM}, manner=MANNER,
    ),
)  # fmt: skip
