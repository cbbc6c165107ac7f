"""The state machine, and what is derived from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.postgres.queries import load_queries
from shared.turn.state import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    Transition,
    TurnStatus,
    mermaid,
    sources,
    target,
)

_SQL_FOLDER = Path("shared/postgres/sql")


def test_every_status_is_reachable() -> None:
    reached = {TurnStatus.PENDING}
    while True:
        more = {status for (source, _), status in TRANSITIONS.items() if source in reached}
        if more <= reached:
            break
        reached |= more
    assert reached == set(TurnStatus)


def test_a_terminal_status_has_no_way_out() -> None:
    assert {
        TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED, TurnStatus.EXPIRED,
    } == TERMINAL  # fmt: skip
    assert {source for source, _ in TRANSITIONS} == ACTIVE
    assert not TERMINAL & ACTIVE


def test_every_transition_is_used_and_has_one_target() -> None:
    for transition in Transition:
        assert len({target(source, transition) for source in sources(transition)}) == 1


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("transition", list(Transition))
def test_a_terminal_status_is_never_left(status: TurnStatus, transition: Transition) -> None:
    with pytest.raises(KeyError):
        target(status, transition)


def test_the_diagram_shows_every_edge() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (\w+)$", mermaid(), re.MULTILINE)
    assert drawn == [(src, dst, why) for (src, why), dst in TRANSITIONS.items()]


def test_no_sql_file_lists_statuses_by_hand() -> None:
    quoted = re.compile("|".join(f"'{status}'" for status in TurnStatus))
    by_hand = {path.name: quoted.findall(path.read_text()) for path in _SQL_FOLDER.glob("*.sql")}
    assert not {name: found for name, found in by_hand.items() if found}


def test_guards_of_queries_are_those_of_the_state_machine() -> None:
    claim = load_queries()["claim_turns"].sql
    assert "t.status in ('pending')" in claim
    assert "set status = 'running'::turn_status" in claim
    cancel = load_queries()["request_cancel"].sql
    assert "t.status in ('pending', 'running', 'awaiting_approval')" in cancel
