"""A fault that comes twice is two faults: in the history, and in what users felt of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.chaos import history as h
from tests.chaos.arena import Evidence, Fault
from tests.chaos.figures import outages
from tests.chaos.invariants.facts import Facts
from tests.chaos.run import inject

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
