"""The wait for a turn's end, where the request is answered with it."""

from __future__ import annotations

from starlette.requests import Request

from api.connection import end_when_lost
from api.state import state_of
from shared.turn.model import Principal, Turn


async def wait_for_end(
    request: Request, principal: Principal, owner: Principal, turn: Turn
) -> Turn:
    """The turn at its end, or as it is when that takes too long, or where too many wait."""
    if turn.is_terminal:
        return turn
    seat = state_of(request).admission.poll(principal.counted_as)
    if seat is None:
        return turn
    with seat:
        return await wait_in_seat(request, principal, owner, turn)


async def wait_in_seat(
    request: Request, principal: Principal, owner: Principal, turn: Turn
) -> Turn:
    """The turn at its end, or as it is when that takes too long or this process leaves.

    A client that leaves ends the wait, and nothing else.
    """
    state = state_of(request)
    async with end_when_lost(request):
        turn = await state.turns.wait(owner, turn, state.settings.sync_wait_s)
    # In which time the token may have been revoked.
    await state.credentials.require_valid(principal)
    return turn
