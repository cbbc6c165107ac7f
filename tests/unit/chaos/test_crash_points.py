"""Crash points name functions that are there, and their traps spring where they say."""

from __future__ import annotations

import asyncio

import pytest

from shared.postgres.queries import load_queries
from tests.chaos.crash_points import CRASH_POINTS, CrashPoint, find_function, lay_trap


class Died(Exception):
    pass


def die() -> None:
    raise Died


class Owner:
    """Stands in for a class of the product."""

    done = 0

    async def fetch(self, name: str) -> str:
        type(self).done += 1
        return name if name != "nothing" else ""


@pytest.mark.parametrize("name", CRASH_POINTS)
def test_every_point_is_a_place_in_the_product(name: str) -> None:
    point = CRASH_POINTS[name]
    assert callable(find_function(point.function)[2])
    if point.query is not None:
        assert point.query in load_queries()


def test_there_are_points_in_both_processes_and_at_all_stages() -> None:
    assert len(CRASH_POINTS) >= 16
    assert {point.process for point in CRASH_POINTS.values()} == {"api", "worker"}


@pytest.mark.parametrize(
    ("when", "asked", "dies", "done"),
    [
        ("before", "wanted", True, 0),
        ("after", "wanted", True, 1),
        ("before", "other", False, 1),
        ("after", "other", False, 1),
    ],
)
def test_a_trap_springs_there_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, when: str, asked: str, dies: bool, done: int
) -> None:
    monkeypatch.setattr(Owner, "done", 0)
    monkeypatch.setattr(Owner, "fetch", Owner.fetch)
    point = CrashPoint("api", when, f"{__name__}:Owner.fetch", "wanted")  # type: ignore[arg-type]
    monkeypatch.setattr(
        "tests.chaos.crash_points.find_function", lambda _: (Owner, "fetch", Owner.fetch)
    )
    lay_trap(point, die)
    if dies:
        with pytest.raises(Died):
            asyncio.run(Owner().fetch(asked))
    else:
        assert asyncio.run(Owner().fetch(asked)) == asked
    assert Owner.done == done


def test_a_trap_that_needs_a_result_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owner, "fetch", Owner.fetch)
    monkeypatch.setattr(
        "tests.chaos.crash_points.find_function", lambda _: (Owner, "fetch", Owner.fetch)
    )
    lay_trap(CrashPoint("api", "after", "", needs_result=True), die)
    assert asyncio.run(Owner().fetch("nothing")) == ""
    with pytest.raises(Died):
        asyncio.run(Owner().fetch("something"))
