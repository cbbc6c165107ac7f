from __future__ import annotations

import pytest

from benchmarks.goals import Goal
from benchmarks.load import percentile
from benchmarks.plan import Plan
from benchmarks.report import Report, medians
from benchmarks.scenarios.paced import STEPS, next_step


def test_medians_are_taken_figure_by_figure() -> None:
    runs = [{"a": 1.0}, {"a": 5.0, "b": 2.0}, {"a": 3.0}]
    assert medians(runs) == {"a": 3.0, "b": 2.0}


def test_percentiles_are_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (51.0, 100.0)


@pytest.mark.parametrize(("ours", "is_met"), [(81.0, True), (79.0, False)])
def test_a_ratio_goal_is_held_against_the_baseline(ours: float, is_met: bool) -> None:
    goal = Goal("", "s", "rate", at_least=8)
    assert goal.judge({"turnkeep": {"rate": ours}, "baseline": {"rate": 10.0}})[2] is is_met


def test_a_ratio_goal_is_open_without_a_baseline() -> None:
    assert Goal("", "s", "rate", at_least=8).judge({"turnkeep": {"rate": 1.0}})[2] is None


def test_a_goal_can_be_about_a_difference() -> None:
    goal = Goal("", "s", "peak", at_most=30, less="before")
    assert goal.judge({"turnkeep": {"peak": 100.0, "before": 75.0}}) == (25.0, None, True)


def test_the_report_says_what_was_not_measured() -> None:
    plan = Plan()
    plan.fail("gets, baseline: it did not start")
    report = Report(plan)
    report.add("streams", "turnkeep", [{"turns/s": 900.0}])
    report.add("streams", "baseline", [{"turns/s": 100.0}])
    text = report.as_markdown()
    assert "| 1 streamed turns/s | 900.00 | 100.00 | 9.00 | ≥ 8× | yes |" in text
    assert "- gets, baseline: it did not start" in text


def climb(most: int, stride: int) -> tuple[int, list[int]]:
    """The step that a system holding `most` streams ends at, and the steps that were tried."""
    held, too_much, number, tried = -1, len(STEPS), 5, []
    while held < number < too_much:
        tried.append(number)
        if STEPS[number] <= most:
            held = number
        else:
            too_much = number
        number = next_step(held, too_much, stride)
    return held, tried


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("most", [10, *STEPS, 10_000])
def test_the_climb_ends_at_the_last_step_that_holds(most: int, stride: int) -> None:
    held, tried = climb(most, stride)
    assert held == max((n for n, streams in enumerate(STEPS) if streams <= most), default=-1)
    assert len(tried) == len(set(tried))
