"""A run: a fault that comes twice is two faults, and an end in disorder is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import history as h
from tests.chaos.arena import Evidence, Fault
from tests.chaos.checker import Rules, check
from tests.chaos.figures import outages
from tests.chaos.invariants.facts import Facts
from tests.chaos.report import write_report
from tests.chaos.run import Outcome, Plan, inject

SECOND = 1_000_000_000


async def _happen(arena: Any) -> Evidence:
    return Evidence(1, "it happened")


async def _do_nothing() -> None:
    pass


async def _flow_at_once(patience_s: float) -> float:
    return 0.0


FAULT = Fault("F01", "a fault", "worker", _happen)


async def test_time_between_two_faults_of_one_kind_is_without_fault(tmp_path: Path) -> None:
    with h.History(tmp_path / "history") as history:
        arena: Any = SimpleNamespace(
            deployment=SimpleNamespace(be_whole=_do_nothing),
            workload=SimpleNamespace(until_flowing=_flow_at_once, history=history),
        )
        first = await inject(FAULT, arena)
        second = await inject(FAULT, arena)
    facts = Facts(h.read(tmp_path / "history"))
    assert facts.fault_during(first.began, first.healed)
    assert facts.fault_during(second.began, second.healed)
    assert not facts.fault_during(first.healed + 1, second.began - 1)


def test_each_of_them_was_felt_in_its_own_way() -> None:
    row = SimpleNamespace(fault=FAULT, began=10 * SECOND, healed=12 * SECOND)
    again = SimpleNamespace(fault=FAULT, began=50 * SECOND, healed=52 * SECOND)
    refused = h.Accept(began=11 * SECOND, at=11 * SECOND, outcome="unknown", tenant="t")
    rows: Any = [row, again]
    assert [outage.refused for outage in outages([refused], rows)] == [1, 0]


def test_a_run_whose_processes_leave_in_disorder_is_reported_and_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.report.mutation_score", lambda: "not asked")
    told = "exit codes: {'worker-1': 1}"
    fine = Outcome(Plan([], seed=1), [], [], check([], Rules()), [], 1.0, {})
    assert fine.is_ok
    outcome = replace(fine, disorder=told)
    assert not outcome.is_ok
    write_report([outcome], tmp_path / "report.md")
    assert f"| faults that failed | {told} |" in (tmp_path / "report.md").read_text()
