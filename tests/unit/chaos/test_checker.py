"""The checker finds nothing in good histories, and every planted violation by its right name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.chaos import history as h
from tests.chaos.checker import CHECKS, check, main
from tests.chaos.history import History, HistoryError
from tests.chaos.invariants.facts import MOST_KEPT, Facts, Rules
from tests.chaos.mutants import MUTANTS, SEEDS, mutation_score, plant
from tests.chaos.stories import MS, Story, repeat

STATISTICS_OR_RUNS = {"I18", "I20", "I24", "I25"}


@given(seed=st.integers(0, 1 << 32), turns=st.integers(1, 40), deltas=st.integers(1, 12))
@hypothesis_settings(max_examples=150)
def test_a_good_history_is_clean(seed: int, turns: int, deltas: int) -> None:
    report = check(Story(seed, turns=turns, deltas=deltas).tell())
    assert report.is_ok, str(report)


def test_stories_exercise_every_check() -> None:
    exercised: set[str] = set()
    for seed in range(SEEDS):
        report = check(Story(seed).tell())
        exercised |= set(CHECKS) - set(report.not_exercised)
    assert exercised == set(CHECKS)


@pytest.mark.parametrize("what", MUTANTS)
def test_a_planted_violation_is_caught_by_its_invariant_alone(what: str) -> None:
    invariant, _ = MUTANTS[what]
    planted = 0
    for seed in range(SEEDS):
        bad = plant(what, Story(seed).tell())
        if bad is None:
            continue
        planted += 1
        report = check(bad)
        assert report.violated == {invariant}, str(report)
        assert all(violation.message for violation in report.violations)
    assert planted


def test_every_invariant_has_a_check_and_every_check_a_mutant() -> None:
    assert set(CHECKS) == {f"I{n}" for n in range(1, 26)} - STATISTICS_OR_RUNS
    assert {invariant for invariant, _ in MUTANTS.values()} == set(CHECKS)


def test_the_score_counts_what_is_caught() -> None:
    score = mutation_score(range(12))
    assert score.caught == score.planted == len(MUTANTS), str(score)
    assert str(score).startswith(f"{len(MUTANTS)}/{len(MUTANTS)} mutants caught")


def test_a_checker_that_sees_nothing_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (title, _) in list(CHECKS.items()):
        monkeypatch.setitem(CHECKS, name, (title, lambda *_: None))
    score = mutation_score(range(3))
    assert score.caught == 0
    assert len(score.missed) == score.planted


def test_an_empty_history_proves_nothing() -> None:
    report = check([])
    assert {verdict.word for verdict in report.verdicts} == {"not exercised"}
    assert report.not_exercised == list(CHECKS)
    assert "not exercised" in str(report)
    assert report.is_ok


def test_a_check_without_its_events_is_not_ok() -> None:
    events = [event for event in Story(3).tell() if not isinstance(event, h.Scan)]
    words = {verdict.invariant: verdict.word for verdict in check(events).verdicts}
    assert words["I1"] == "not exercised"
    assert words["I2"] == "ok"


def test_an_unknown_submit_is_resolved_by_its_repetition() -> None:
    unknown = h.Accept(began=1, at=2, outcome="unknown", tenant="a", key="k")
    again = h.Accept(began=3, at=4, outcome="ok", tenant="a", key="k", turn="t")
    alone = h.Accept(began=1, at=2, outcome="unknown", tenant="a", key="other")
    without_key = h.Accept(began=1, at=2, outcome="unknown", tenant="a")
    assert check([unknown, again]).unresolved == 0
    assert check([unknown, unknown, again, alone, alone]).unresolved == 1
    assert check([without_key, without_key]).unresolved == 2


def test_a_turn_of_an_unknown_submit_may_have_been_first() -> None:
    """Its place in line was taken when it was first sent, which binds nobody sent meanwhile."""
    events = Story(5).tell()
    facts = Facts(events)
    line = facts.of(h.FinalState)[0]
    of_line = [r.turn for r in facts.of(h.FinalState) if r.concurrency_key == line.concurrency_key]
    assert len(of_line) > 1
    first = min(accept.began for accept in facts.of(h.Accept))
    early = [
        h.Accept(
            began=first - 10, at=first - 5, outcome="unknown", tenant=accept.tenant,
            user=accept.user, key=accept.key,
        )
        for accept in facts.accepted.values()
    ]  # fmt: skip
    assert check([*early, *events]).is_ok


def test_a_503_under_a_fault_may_have_been_accepted() -> None:
    bad = plant("a 503 out of nowhere has a row", Story(1).tell())
    assert bad is not None
    assert check(bad).violated == {"I19"}
    at = bad[-1].at
    fault = h.FaultBegun(at=at - 2000 * MS, fault="f", name="F39", layer="postgres")
    elsewhere = replace(fault, layer="redis")
    assert check([*bad, fault, h.FaultHealed(at=at, fault="f")]).is_ok
    assert check([*bad, elsewhere, h.FaultHealed(at=at, fault="f")]).violated == {"I19"}


def test_violations_beyond_count_are_counted() -> None:
    many = [h.Reply(at=n, link="redis", asked="1", told="2") for n in range(MOST_KEPT + 7)]
    report = check(many)
    (verdict,) = [v for v in report.verdicts if v.count]
    assert (verdict.count, len(verdict.violations)) == (MOST_KEPT + 7, MOST_KEPT)
    assert "and 7 more" in str(report)


def test_a_frame_of_no_connection_is_a_contradiction() -> None:
    with pytest.raises(HistoryError):
        check([h.Frame(at=1, connection="nobody", type="comment")])


def test_rules_are_obeyed() -> None:
    bad = plant("a stream is silent for too long", Story(1).tell())
    assert bad is not None
    assert not check(bad).is_ok
    assert check(bad, Rules(keep_alive_s=20)).is_ok


def test_a_stream_that_opened_after_a_cancel_may_tell_what_was_kept() -> None:
    """Also where it was asked for before."""
    what = "a delta after the cancel's answer"
    bad = next(bad for seed in range(SEEDS) if (bad := plant(what, Story(seed).tell())))
    late = next(e for e in bad if isinstance(e, h.Connect) and e.connection == "late")
    (cancel,) = (e for e in bad if isinstance(e, h.Cancel) and e.turn == late.turn)
    opened = replace(late, at=cancel.at + 1)
    assert check(bad).violated == {"I12"}
    assert "I12" not in check([opened if e is late else e for e in bad]).violated


def test_the_command_tells_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    with History(good) as history:
        history.extend(Story(1).tell())
    with History(bad) as history:
        history.append(h.Reply(at=7, link="redis", asked="mine", told="yours"))
    assert main([str(good)]) == 0
    assert "I9" in capsys.readouterr().out
    assert main([str(good), str(bad), "--settle-s", "60"]) == 1
    assert "I15 at 7: -: redis: asked for mine, was told yours" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2
    bad.write_bytes(b"{}\n")
    assert main([str(bad)]) == 2


def test_time_grows_with_the_history_and_no_faster() -> None:
    """Long lines and long streams: what is quadratic in either shows here."""
    stories = (Story(seed, deltas=20).tell() for seed in range(100))
    story = next(s for s in stories if not any(isinstance(e, h.Signalled) for e in s))

    def cpu_s(times: int) -> float:
        events = list(repeat(story, times))
        began = time.process_time()
        report = check(events)
        assert report.is_ok, str(report)
        return time.process_time() - began

    cpu_s(1)
    few, many = cpu_s(10), cpu_s(100)
    assert many < 30 * few + 0.5


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_million_events_take_less_than_half_a_minute(tmp_path: Path) -> None:
    stories = (Story(seed, deltas=20).tell() for seed in range(100))
    story = next(s for s in stories if not any(isinstance(e, h.Signalled) for e in s))
    path = tmp_path / "history"
    with History(path) as history:
        history.extend(repeat(story, 1_000_000 // len(story) + 1))
    began = time.process_time()
    recorded = h.read(path)
    report = check(recorded.events)
    took_s = time.process_time() - began
    assert report.is_ok, str(report)
    assert report.events >= 1_000_000
    assert took_s < 30
