"""The catalogue is whole, and its draws can be repeated."""

from __future__ import annotations

from tests.chaos.catalogue import FAULTS, LEFT_OUT
from tests.chaos.soak import DRAWN, draw


def test_each_fault_is_there_once() -> None:
    assert len(FAULTS) >= 40
    left_out = {name for names in LEFT_OUT for name in names.split(", ")}
    assert not left_out & FAULTS.keys()


def test_no_fault_of_the_plan_is_forgotten() -> None:
    known = {name.rstrip("bch") for name in FAULTS} | {"F57", "F58"}  # the soak
    known |= {name for names in LEFT_OUT for name in names.split(", ")}
    wanted = {f"F{number:02}" for number in range(1, 59)}
    assert wanted <= known, sorted(wanted - known)


def test_a_seed_draws_the_same_faults_again() -> None:
    assert set(DRAWN) <= FAULTS.keys()
    assert [f.id for f in draw(5, 30)] == [f.id for f in draw(5, 30)]
    assert [f.id for f in draw(5, 30)] != [f.id for f in draw(6, 30)]
