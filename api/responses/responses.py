"""Responses: create, retrieve, stream, cancel, delete, and what they were asked."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate_bearer
from api.body import read_model
from api.openapi import Answer, Operation
from api.request_headers import KEY_HEADER
from api.responses.dialect import MANNER
from api.responses.schemas import (
    ConversationParam,
    CreateResponse,
    DeletedResponse,
    InputMessage,
    ItemList,
    ItemsQuery,
    ResponseObject,
    RetrieveQuery,
    item_list,
    message_item,
)
from api.responses.submit import accept_response, find_response
from api.sse import EventStreamResponse
from api.state import state_of
from api.streams.responses import ResponsesEncoder
from api.streams.responses_object import Asked, message_id, response_id
from api.validation import read_query
from api.waiting import wait_for_end
from api.wire import json_response
from shared.errors import MessageNotFound
from shared.turn.events import Event
from shared.turn.messages import is_truncated
from shared.turn.model import Principal, Turn
from shared.turn.replay import awaiting_event, ended_event
from shared.turn.retell import retell
from shared.turn.state import TurnStatus

PREFIX: Final = "/v1/responses"
RESPONSE: Final = f"{PREFIX}/{{response_id}}"


async def create_response(request: Request) -> Answer:
    """Accepts a response, and answers with its stream, its end, or in the background at once.

    A client that leaves cancels nothing. What has not ended within `sync_wait_s` is shown
    as it is by then.
    """
    principal = await authenticate_bearer(request)
    state_of(request).admission.require_calm()
    body = await read_model(request, CreateResponse, reserved=frozenset())
    if body.stream:
        with state_of(request).admission.stream(principal.counted_as):
            turn = await accept_response(request, principal, body)
            return _stream(request, principal, turn)
    turn = await accept_response(request, principal, body)
    if not body.background:
        turn = await wait_for_end(request, principal, principal, turn)
    return await _show(request, turn)


async def retrieve_response(request: Request) -> Answer:
    """A response as it is, or with `stream` its events: those behind `starting_after`."""
    principal = await authenticate_bearer(request, is_vital=True)
    query = read_query(request, RetrieveQuery)
    if not query.stream:
        return await _show(request, await _find(request, principal))
    with state_of(request).admission.stream(principal.counted_as):
        turn = await _find(request, principal)
        return _stream(request, principal, turn, after=query.starting_after)


async def cancel_response(request: Request) -> Response:
    """Ends a response and shows it; one that has ended is shown as it is."""
    principal = await authenticate_bearer(request, is_vital=True)
    turn = await _find(request, principal)
    return await _show(request, await state_of(request).cancels.cancel(principal, turn.id))


async def delete_response(request: Request) -> Response:
    """Cancels a response that has not ended, and makes what was asked and said disappear."""
    principal = await authenticate_bearer(request)
    turn = await _find(request, principal)
    await state_of(request).exchanges.hide(principal, turn, with_thread=Asked.of(turn).made_thread)
    return json_response({"id": response_id(turn.id), "object": "response", "deleted": True})


async def list_response_input_items(request: Request) -> Response:
    """The messages that a response answers: those it brought along, and the one of its user."""
    principal = await authenticate_bearer(request)
    query = read_query(request, ItemsQuery)
    turn = await _find(request, principal)
    exchanges = state_of(request).exchanges
    question = await exchanges.question(principal, turn)
    rows = [question]
    if Asked.of(turn).made_thread:
        rows = [*await exchanges.list_given(principal, question), question]
    items = [message_item(message_id(row["id"]), row["role"], row["content"]) for row in rows]
    if query.order == "desc":
        items.reverse()
    first = 0
    if query.after is not None:
        places = {item["id"]: place for place, item in enumerate(items)}
        if query.after not in places:
            raise MessageNotFound
        first = places[query.after] + 1
    page = items[first : first + query.limit]
    return json_response(item_list(page, has_more=first + len(page) < len(items)))


async def _find(request: Request, principal: Principal) -> Turn:
    return await find_response(request, principal, request.path_params["response_id"])


def _stream(
    request: Request, principal: Principal, turn: Turn, *, after: int | None = None
) -> EventStreamResponse:
    streams = state_of(request).streams
    encoder = ResponsesEncoder(turn) if after is None else ResponsesEncoder(turn, after=after)
    return EventStreamResponse(streams, streams.hub.follow(turn), encoder, principal)


async def _show(request: Request, turn: Turn) -> Response:
    """The response object, with what is stored of its output."""
    story: list[Event] = []
    if turn.is_terminal or turn.parked_count:
        rows = await state_of(request).exchanges.answer(turn)
        raws = [row["raw_data"] for row in rows]
        story += retell(raws)
        if turn.status is TurnStatus.AWAITING_APPROVAL:
            story.append(awaiting_event(turn))
        elif turn.is_terminal:
            story.append(ended_event(turn, is_truncated(raws)))
    return json_response(ResponsesEncoder.of_stored(turn, story).response())


OPERATIONS: Final = (
    Operation(
        "POST", PREFIX, create_response, "responses", "Create a response",
        body=CreateResponse, also_documents=(InputMessage, ConversationParam),
        headers=(KEY_HEADER,),
        responses={HTTPStatus.OK: ResponseObject}, also_streams=True, errors=(404, 409),
        manner=MANNER,
    ),
    Operation(
        "GET", RESPONSE, retrieve_response, "responses", "Retrieve or stream a response",
        query=RetrieveQuery, responses={HTTPStatus.OK: ResponseObject}, also_streams=True,
        manner=MANNER,
    ),
    Operation(
        "DELETE", RESPONSE, delete_response, "responses", "Delete a response",
        responses={HTTPStatus.OK: DeletedResponse}, errors=(409,), manner=MANNER,
    ),
    Operation(
        "POST", f"{RESPONSE}/cancel", cancel_response, "responses", "Cancel a response",
        responses={HTTPStatus.OK: ResponseObject}, manner=MANNER,
    ),
    Operation(
        "GET", f"{RESPONSE}/input_items", list_response_input_items, "responses",
        "List what a response answers",
        query=ItemsQuery, responses={HTTPStatus.OK: ItemList}, manner=MANNER,
    ),
)  # fmt: skip
