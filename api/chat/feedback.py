"""Feedback of the primary surface: rate answers, list what was rated, take all of it away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.admission import Admission
from api.auth import authenticate
from api.body import read_model
from api.chat.feedback_schemas import (
    CreateFeedback,
    Feedback,
    FeedbackList,
    FeedbackListQuery,
    FeedbackQuery,
    feedback_to_dict,
)
from api.openapi import Answer, Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response, to_json
from shared.service.feedback import FeedbackFilter, Opinion
from shared.turn.model import Principal

FEEDBACK: Final = "/api/v1/chat/feedback"
THREAD_FEEDBACK: Final = "/api/v1/chat/threads/{thread_id}/feedback"
JSON_LINES: Final = "application/x-ndjson"


async def create_feedback(request: Request) -> Response:
    """Rates a message, a turn or a thread; rating it again replaces the rating, with 200."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    body = await read_model(request, CreateFeedback)
    row, is_new = await state_of(request).feedback.put(
        principal,
        Opinion(thread_id, body.message_id, body.turn_id, body.rating, body.comment),
    )
    status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return json_response(feedback_to_dict(row), status)


async def list_feedback(request: Request) -> Response:
    """The caller's feedback, newest first."""
    principal = await authenticate(request)
    query = read_query(request, FeedbackListQuery)
    rows, cursor = await state_of(request).feedback.list_feedback(
        principal, _filter(query), limit=query.limit, cursor=read_cursor(request, query.cursor)
    )
    return json_response(
        {
            "items": [feedback_to_dict(row) for row in rows],
            "nextCursor": tell_cursor(request, cursor),
        }
    )


async def export_feedback(request: Request) -> Answer:
    """All of the caller's feedback, newest first, one JSON object a line."""
    principal = await authenticate(request)
    query = read_query(request, FeedbackQuery)
    admission = state_of(request).admission
    with admission.stream(principal.counted_as):
        lines = _lines(request, principal, _filter(query))
        # What is wrong shows before the head is sent; afterwards only a cut connection can tell.
        first = await anext(lines, b"")
    return StreamingResponse(
        _seated(admission, principal, first, lines),
        media_type=JSON_LINES,
        headers={"content-disposition": 'attachment; filename="feedback.jsonl"'},
    )


async def _lines(
    request: Request, principal: Principal, wanted: FeedbackFilter
) -> AsyncIterator[bytes]:
    state = state_of(request)
    async for rows in state.feedback.export(principal, wanted):
        yield b"".join(to_json(feedback_to_dict(row)) + b"\n" for row in rows)
        # In which time the credential may have been revoked.
        await state.credentials.require_valid(principal)


async def _seated(
    admission: Admission, principal: Principal, first: bytes, lines: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    with admission.streams.hold(principal.counted_as):
        yield first
        async for piece in lines:
            yield piece


def _filter(query: FeedbackQuery) -> FeedbackFilter:
    return FeedbackFilter(
        thread_id=query.thread_id,
        turn_id=query.turn_id,
        message_id=query.message_id,
        rating=query.rating,
        created_after=query.created_after,
        created_before=query.created_before,
    )


OPERATIONS: Final = (
    Operation(
        "POST", THREAD_FEEDBACK, create_feedback, "feedback", "Rate an answer",
        body=CreateFeedback, responses={HTTPStatus.CREATED: Feedback, HTTPStatus.OK: Feedback},
    ),
    Operation(
        "GET", FEEDBACK, list_feedback, "feedback", "List feedback",
        query=FeedbackListQuery, responses={HTTPStatus.OK: FeedbackList},
    ),
    Operation(
        "GET", f"{FEEDBACK}/export", export_feedback, "feedback", "Export feedback",
        query=FeedbackQuery, responses={HTTPStatus.OK: JSON_LINES},
    ),
)  # fmt: skip
