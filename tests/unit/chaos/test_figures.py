"""Figures that judge growth and fairness."""

from __future__ import annotations

import random

import pytest

from tests.chaos.history import Sample
from tests.chaos.invariants.figures import (
    at_most_95,
    jain_index,
    percentile,
    series,
    slope_per_hour,
)


def test_growth_is_seen_through_noise_and_collections() -> None:
    lots = random.Random(1)  # noqa: S311 - not a secret
    points = [(float(s), 1000.0 + s * 2 + lots.uniform(-50, 50)) for s in range(3600)]
    points[1800:1810] = [(float(s), 9000.0) for s in range(1800, 1810)]
    assert slope_per_hour(points) == pytest.approx(7200, rel=0.05)


def test_what_only_swings_does_not_grow() -> None:
    points = [(float(s), 1000.0 + (s % 60)) for s in range(3600)]
    assert abs(slope_per_hour(points)) < 5


def test_too_few_points_grow_nowhere() -> None:
    assert slope_per_hour([]) == slope_per_hour([(1.0, 5.0)]) == 0.0
    assert slope_per_hour([(1.0, 5.0), (1.0, 9.0)]) == 0.0


def test_a_series_is_one_figure_of_one_subject() -> None:
    samples = [
        Sample(at=2_000_000_000, subject="a", figure="x", value=2),
        Sample(at=1_000_000_000, subject="a", figure="x", value=1),
        Sample(at=1, subject="b", figure="x", value=9),
        Sample(at=1, subject="a", figure="y", value=9),
    ]
    assert series(samples, "a", "x") == [(1.0, 1), (2.0, 2)]


def test_fairness() -> None:
    assert jain_index([5, 5, 5, 5]) == 1.0
    assert jain_index([8, 0, 0, 0]) == 0.25
    assert jain_index([0, 0]) == 1.0


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile(range(1, 101), 99) == 99
    assert percentile([3.0], 50) == 3.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_a_rate_never_found_has_a_bound() -> None:
    assert at_most_95(0, 3000) == 0.001
    assert at_most_95(3, 300) == 0.01
    assert at_most_95(0, 0) == 1.0
