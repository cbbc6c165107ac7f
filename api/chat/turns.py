"""Turns of the primary surface: submit, stream, poll, list, attach, cancel."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.admission import soon_s
from api.auth import authenticate
from api.body import read_model
from api.chat.submit import accept_turn, build_turn
from api.chat.submit_body import SubmitTurn, UIMessage
from api.chat.turn_schemas import CancelTurn, TurnList, TurnListQuery, TurnQuery, turn_to_json
from api.chat.turn_schemas import Turn as TurnSchema
from api.conditional import entity_tag, matches, preferred_wait_s, turn_headers
from api.connection import end_when_lost
from api.openapi import EVENT_STREAM, Answer, Header, Operation
from api.page_cursors import read_cursor, tell_cursor
from api.request_headers import KEY_HEADER, TIMEZONE_HEADER
from api.sse import EventStreamResponse
from api.state import state_of
from api.streams import vercel_ui
from api.streams.native import NativeEncoder
from api.streams.vercel_ui import VercelUIEncoder
from api.validation import path_uuid, read_query
from api.wire import rendered_response
from shared.errors import CursorExpired, InvalidRequest, RedisUnavailable
from shared.redis.connection import RedisReplyError
from shared.service.page_cursor import decode_seq, encode_seq
from shared.turn.approval import Decision
from shared.turn.events import START, Cursor
from shared.turn.model import Principal, Turn
from shared.turn.state import TurnStatus

PREFIX: Final = "/api/v1/chat"
THREAD: Final = f"{PREFIX}/threads/{{thread_id}}"
TURN: Final = f"{PREFIX}/turns/{{turn_id}}"


async def stream_turn(request: Request) -> Answer:
    """Accepts a turn and streams it as a UI message stream.

    When the last message is the assistant's, with parts in state `approval-responded`, the turn
    that asked for these approvals goes on, and what it says from there is streamed.
    """
    principal = await authenticate(request)
    state_of(request).admission.require_calm()
    with state_of(request).admission.stream(principal.counted_as):
        return await _submit_and_stream(request, principal)


async def _submit_and_stream(request: Request, principal: Principal) -> EventStreamResponse:
    thread_id = path_uuid(request, "thread_id")
    # Clients add members of their own to what `useChat` sends: none of them is refused.
    body = await read_model(request, SubmitTurn, reserved=frozenset())
    decisions = body.approval_responses()
    if decisions is not None:
        return await _decide_and_stream(request, principal, thread_id, decisions)
    new = build_turn(request, principal, thread_id, body, key_from_message=True)
    # The reader is there before the turn is announced, so it need not look anywhere else.
    follower = state_of(request).streams.hub.follow_new(new.id)
    try:
        accepted = await accept_turn(request, new)
    except BaseException:
        follower.close()
        raise
    headers = {**vercel_ui.HEADERS, "location": _location(accepted.turn)}
    if accepted.replayed:
        headers["idempotency-replayed"] = "true"
        follower.close()
        return _ui_stream(request, principal, accepted.turn, headers=headers)
    follower.begin(accepted.turn)
    return EventStreamResponse(
        state_of(request).streams,
        follower,
        VercelUIEncoder(accepted.turn),
        principal,
        position=accepted.position or None,
        headers=headers,
    )


async def _decide_and_stream(
    request: Request, principal: Principal, thread_id: UUID, decisions: list[Decision]
) -> EventStreamResponse:
    """Decides as `POST …/actions` does, and streams what comes after it of the same turn."""
    turn = await state_of(request).approvals.decide_in_thread(principal, thread_id, decisions)
    if turn is None:
        await _require_thread(request, principal, thread_id)
        msg = "No turn of the thread waits for these tool calls to be approved"
        raise InvalidRequest(("body", "messages"), msg)
    streams = state_of(request).streams
    # The client holds what was said until the turn was parked; the attempt after that begins there.
    attempt = turn.attempt + 1 if turn.status is TurnStatus.PENDING else turn.attempt
    return EventStreamResponse(
        streams,
        streams.hub.follow(turn, Cursor(attempt, 0)),
        VercelUIEncoder(turn, is_continued=True),
        principal,
        headers={**vercel_ui.HEADERS, "location": _location(turn)},
    )


async def submit_turn(request: Request) -> Response:
    """Accepts a turn and answers at once, or when it has ended within `Prefer: wait`."""
    principal = await authenticate(request)
    state_of(request).admission.require_calm()
    thread_id = path_uuid(request, "thread_id")
    body = await read_model(request, SubmitTurn)
    new = build_turn(request, principal, thread_id, body, key_from_message=False)
    accepted = await accept_turn(request, new)
    turn, headers = await _wait_if_asked(request, principal, accepted.turn)
    headers["location"] = _location(turn)
    if accepted.replayed:
        headers["idempotency-replayed"] = "true"
    status = HTTPStatus.OK if turn.is_terminal else HTTPStatus.ACCEPTED
    return _turn_response(turn, headers, status)


async def get_turn(request: Request) -> Response:
    """One turn; long-polls with `Prefer: wait`, costs no body with `If-None-Match`."""
    principal = await authenticate(request, is_vital=True)
    turn = await state_of(request).turns.get(principal, path_uuid(request, "turn_id"))
    turn, headers = await _wait_if_asked(request, principal, turn)
    if matches(request, entity_tag(turn)):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return _turn_response(turn, headers)


async def follow_turn(request: Request) -> Answer:
    """A turn's events from a cursor, in the native protocol."""
    principal = await authenticate(request)
    with state_of(request).admission.stream(principal.counted_as):
        return await _follow(request, principal)


async def _follow(request: Request, principal: Principal) -> Answer:
    query = read_query(request, TurnQuery)
    turn = await state_of(request).turns.get(principal, path_uuid(request, "turn_id"))
    after = _read_cursor(request, query.after)
    if turn.is_terminal and after >= Cursor(turn.attempt, turn.last_seq):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    await _check_servable(request, turn, after)
    position = await _position(request, turn) if after == START else None
    streams = state_of(request).streams
    return EventStreamResponse(
        streams, streams.hub.follow(turn, after), NativeEncoder(), principal, position=position
    )


async def attach_to_thread(request: Request) -> Answer:
    """The thread's active turn as a UI message stream; 204 when none is active.

    Of a turn that waits for approvals: what it has said, the approvals it asks for, and the end of
    the stream.
    """
    principal = await authenticate(request)
    with state_of(request).admission.stream(principal.counted_as):
        return await _attach(request, principal)


async def _attach(request: Request, principal: Principal) -> Answer:
    thread_id = path_uuid(request, "thread_id")
    turn = await state_of(request).turns.find_active(principal, thread_id)
    if turn is None:
        await _require_thread(request, principal, thread_id)
        return Response(status_code=HTTPStatus.NO_CONTENT)
    position = await _position(request, turn)
    return _ui_stream(request, principal, turn, position=position, headers=vercel_ui.HEADERS)


async def cancel_thread_turn(request: Request) -> Response:
    """Stops the thread's active turn; nothing to stop is fine."""
    principal = await authenticate(request, is_vital=True)
    thread_id = path_uuid(request, "thread_id")
    body = await read_model(request, CancelTurn)
    turn = await state_of(request).cancels.cancel_active_of_thread(
        principal, thread_id, body.partial_text
    )
    if turn is None:
        await _require_thread(request, principal, thread_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def cancel_turn(request: Request) -> Response:
    """Stops one turn and shows it; one that has ended is shown as it is."""
    principal = await authenticate(request, is_vital=True)
    turn_id = path_uuid(request, "turn_id")
    body = await read_model(request, CancelTurn)
    turn = await state_of(request).cancels.cancel(principal, turn_id, body.partial_text)
    return _turn_response(turn, turn_headers(turn, None))


async def list_turns(request: Request) -> Response:
    """The caller's turns, newest first."""
    principal = await authenticate(request)
    return await _list(request, principal, None)


async def list_thread_turns(request: Request) -> Response:
    """The turns of one thread, newest first."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    await _require_thread(request, principal, thread_id)
    return await _list(request, principal, thread_id)


async def _list(request: Request, principal: Principal, thread_id: UUID | None) -> Response:
    query = read_query(request, TurnListQuery)
    listing = "all" if thread_id is None else str(thread_id)
    sent = read_cursor(request, query.cursor)
    turns = await state_of(request).turns.list_turns(
        principal,
        thread_id=thread_id,
        status=query.status,
        concurrency_key=query.concurrency_key,
        before_seq=decode_seq(sent, listing) if sent else None,
        limit=query.limit + 1,
    )
    page = turns[: query.limit]
    last = encode_seq(page[-1].accept_seq, listing) if len(turns) > query.limit else None
    more = tell_cursor(request, last)
    items = b",".join(turn_to_json(turn) for turn in page)
    cursor = b"null" if more is None else b'"' + more.encode() + b'"'
    return rendered_response(b'{"items":[' + items + b'],"nextCursor":' + cursor + b"}")


async def _wait_if_asked(
    request: Request, principal: Principal, turn: Turn
) -> tuple[Turn, dict[str, str]]:
    """The turn after the wait that the client prefers, and the headers that show it.

    A wait is a preference (RFC 7240 §2): where too many wait, the answer comes at once.
    """
    wait_s = preferred_wait_s(request)
    if not wait_s or turn.is_terminal:
        return turn, turn_headers(turn, wait_s)
    seat = state_of(request).admission.poll(principal.counted_as)
    if seat is None:
        return turn, {**turn_headers(turn, None), "retry-after": str(soon_s())}
    with seat:
        async with end_when_lost(request):
            turn = await state_of(request).turns.wait(principal, turn, wait_s)
    # In which time the credential may have been revoked.
    await state_of(request).credentials.require_valid(principal)
    return turn, turn_headers(turn, wait_s)


async def _require_thread(request: Request, principal: Principal, thread_id: UUID) -> None:
    await state_of(request).threads.get(principal, thread_id)


async def _position(request: Request, turn: Turn) -> int | None:
    """Turns ahead of a waiting one; None when it does not wait."""
    if turn.status is not TurnStatus.PENDING:
        return None
    return await state_of(request).turns.count_ahead(turn)


def _ui_stream(
    request: Request,
    principal: Principal,
    turn: Turn,
    *,
    headers: dict[str, str],
    position: int | None = None,
) -> EventStreamResponse:
    streams = state_of(request).streams
    return EventStreamResponse(
        streams,
        streams.hub.follow(turn),
        VercelUIEncoder(turn),
        principal,
        position=position,
        headers=headers,
    )


def _read_cursor(request: Request, after: str | None) -> Cursor:
    """`Last-Event-ID` of a reconnect is newer than the `after` of the URL it repeats."""
    header = request.headers.get("last-event-id")
    text, loc = (header, ("header", "Last-Event-ID")) if header else (after, ("query", "after"))
    if not text:
        return START
    cursor = Cursor.parse(text)
    if cursor is None:
        raise InvalidRequest(loc, "A cursor is the id of an event, such as 1-57", "value_error")
    return cursor


async def _check_servable(request: Request, turn: Turn, after: Cursor) -> None:
    """Raises CursorExpired unless the events behind `after` can be told exactly."""
    if after.attempt > max(turn.attempt, 1) or (turn.attempt == 0 and after > START):
        raise CursorExpired(str(turn.id))
    starts_over = after.seq == 0 or after.attempt < turn.attempt
    if not turn.is_terminal or starts_over:
        return
    try:
        is_kept = await state_of(request).event_log.holds(turn.id, after)
    except (RedisUnavailable, RedisReplyError):
        is_kept = False
    if not is_kept:
        raise CursorExpired(str(turn.id))


def _turn_response(
    turn: Turn, headers: dict[str, str], status: HTTPStatus = HTTPStatus.OK
) -> Response:
    return rendered_response(turn_to_json(turn), status, headers)


def _location(turn: Turn) -> str:
    return f"{PREFIX}/turns/{turn.id}"


_WAIT = Header("Prefer", "wait=N holds the answer up to N seconds (60 at most) for the turn's end")
_LAST_ID = Header("Last-Event-ID", "Cursor: the id of the last event seen")
_IF_NONE_MATCH = Header("If-None-Match", "Entity tag of the version at hand")

OPERATIONS: Final = (
    Operation(
        "POST", f"{THREAD}/turns/stream", stream_turn, "turns", "Submit a turn and stream it",
        body=SubmitTurn, also_documents=(UIMessage,), headers=(KEY_HEADER, TIMEZONE_HEADER),
        responses={HTTPStatus.OK: EVENT_STREAM}, errors=(404, 409),
    ),
    Operation(
        "POST", f"{THREAD}/turns", submit_turn, "turns", "Submit a turn",
        body=SubmitTurn, also_documents=(UIMessage,), headers=(KEY_HEADER, _WAIT, TIMEZONE_HEADER),
        responses={HTTPStatus.ACCEPTED: TurnSchema, HTTPStatus.OK: TurnSchema}, errors=(404, 409),
    ),
    Operation(
        "GET", f"{THREAD}/turns", list_thread_turns, "turns", "List the turns of a thread",
        query=TurnListQuery, responses={HTTPStatus.OK: TurnList},
    ),
    Operation(
        "GET", f"{THREAD}/stream", attach_to_thread, "turns", "Attach to the active turn",
        responses={HTTPStatus.OK: EVENT_STREAM, HTTPStatus.NO_CONTENT: None},
    ),
    Operation(
        "POST", f"{THREAD}/turns/cancel", cancel_thread_turn, "turns", "Cancel the active turn",
        body=CancelTurn, responses={HTTPStatus.NO_CONTENT: None},
    ),
    Operation(
        "GET", f"{PREFIX}/turns", list_turns, "turns", "List turns",
        query=TurnListQuery, responses={HTTPStatus.OK: TurnList},
    ),
    Operation(
        "GET", TURN, get_turn, "turns", "Get a turn",
        headers=(_WAIT, _IF_NONE_MATCH),
        responses={HTTPStatus.OK: TurnSchema, HTTPStatus.NOT_MODIFIED: None},
    ),
    Operation(
        "GET", f"{TURN}/events", follow_turn, "turns", "Follow a turn's events",
        query=TurnQuery, headers=(_LAST_ID,),
        responses={HTTPStatus.OK: EVENT_STREAM, HTTPStatus.NO_CONTENT: None}, errors=(410,),
    ),
    Operation(
        "POST", f"{TURN}/cancel", cancel_turn, "turns", "Cancel a turn",
        body=CancelTurn, responses={HTTPStatus.OK: TurnSchema},
    ),
)  # fmt: skip
