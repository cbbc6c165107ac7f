"""A person's decisions on the tool calls of a parked turn. `useChat` sends them to the stream."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.body import read_model
from api.chat.turn_schemas import DecideTurn, Turn, turn_to_json
from api.conditional import turn_headers
from api.openapi import Operation
from api.state import state_of
from api.validation import path_uuid
from api.wire import rendered_response


async def decide_turn(request: Request) -> Response:
    """Decides on all open tool calls of a turn, which goes on then; the same again changes nothing.

    A turn that was decided otherwise, or that waits for nobody, is answered with 409.
    """
    principal = await authenticate(request, is_vital=True)
    turn_id = path_uuid(request, "turn_id")
    body = await read_model(request, DecideTurn)
    decisions = [decision.as_decision() for decision in body.decisions]
    turn = await state_of(request).approvals.decide(principal, turn_id, decisions)
    return rendered_response(turn_to_json(turn), headers=turn_headers(turn, None))


OPERATIONS: Final = (
    Operation(
        "POST", "/api/v1/chat/turns/{turn_id}/actions", decide_turn, "turns",
        "Decide on a turn's tool calls",
        body=DecideTurn, responses={200: Turn}, errors=(409,),
    ),
)  # fmt: skip
