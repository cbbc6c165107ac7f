"""The write protocol has no bad interleaving, and each weaker form of it has one.

A search that finds nothing proves nothing unless it finds what is there: hence the weak forms.
"""

from __future__ import annotations

import pytest

from tests.protocol.protocol_model import Bounds, Fencing, Result, Violation, search

_STALE_WRITES = {Violation.AFTER_END, Violation.OLD_AFTER_NEW}


def found(result: Result) -> set[Violation]:
    return set(result.traces)


def test_full_protocol_survives_every_flush() -> None:
    result = search(Fencing.FULL, Bounds())
    assert found(result) == set()
    assert result.states > 50_000


def test_full_protocol_survives_a_rollback() -> None:
    # Three attempts and one flush; four and two are searched in the long run.
    result = search(Fencing.FULL, Bounds(attempts=3, flushes=1, rollback=True))
    assert found(result) == set()
    assert result.states > 20_000


def test_a_rewritten_log_hands_every_place_out_once() -> None:
    result = search(Fencing.FULL, Bounds(attempts=2, flushes=1, events=3, rollback=True))
    assert found(result) == set()
    assert result.states > 20_000


def test_without_fencing_turns_end_twice_and_dead_attempts_speak() -> None:
    result = search(Fencing.NONE, Bounds(attempts=3, flushes=0))
    assert found(result) >= {Violation.TWO_ENDS} | _STALE_WRITES
    assert result.traces[Violation.TWO_ENDS][-1].endswith("commit")


def test_attempts_alone_do_not_survive_a_flush() -> None:
    result = search(Fencing.ATTEMPT, Bounds(attempts=3, flushes=1))
    assert found(result) == _STALE_WRITES
    assert "flush" in result.traces[Violation.OLD_AFTER_NEW]


def test_a_generation_makes_a_flush_harmless() -> None:
    assert found(search(Fencing.GENERATION, Bounds(attempts=3, flushes=2))) == set()


def test_a_generation_that_survives_a_rollback_does_not_help() -> None:
    result = search(Fencing.GENERATION, Bounds(attempts=3, flushes=0, rollback=True))
    assert found(result) == _STALE_WRITES
    assert "rollback" in result.traces[Violation.OLD_AFTER_NEW]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fencing", "violations"),
    [
        (Fencing.NONE, {Violation.TWO_ENDS} | _STALE_WRITES),
        (Fencing.ATTEMPT, _STALE_WRITES),
        (Fencing.GENERATION, _STALE_WRITES),
        (Fencing.FULL, set()),
    ],
)
def test_whole_search_with_rollback(fencing: Fencing, violations: set[Violation]) -> None:
    result = search(fencing, Bounds(rollback=True))
    print(fencing.name, result.states, result.transitions)
    assert found(result) == violations
