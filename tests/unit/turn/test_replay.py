"""A finished turn told from Postgres: as few events as say it all, and nothing it did not say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.turn.events import START, Cursor, decode_event
from shared.turn.replay import replay_ended
from shared.turn.state import TurnStatus
from tests.unit.streams.test_vercel_ui import make_turn

ENDED = replace(make_turn(), status=TurnStatus.COMPLETED, last_seq=9)


@pytest.mark.parametrize(
    ("after", "types"),
    [
        (START, ["turn.started", "message.delta", "turn.ended"]),
        (Cursor(1, 4), ["turn.snapshot", "turn.ended"]),
        (Cursor(1, 9), ["turn.ended"]),
    ],
)
def test_what_is_told_depends_on_what_was_heard(after: Cursor, types: list[str]) -> None:
    batches = replay_ended(ENDED, "text", "", after)
    assert [decode_event(p).type for batch in batches for p in batch.payloads] == types
    assert batches[-1].last == Cursor(1, 9)


def test_a_turn_that_never_started_only_ends() -> None:
    turn = replace(ENDED, status=TurnStatus.CANCELLED, started_at=None, last_seq=1)
    (batch,) = replay_ended(turn, "", "", START)
    assert [decode_event(payload).type for payload in batch.payloads] == ["turn.ended"]
