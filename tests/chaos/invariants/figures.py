"""Statistics over samples: growth (I18), fairness (I20), and the spread of times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from tests.chaos.history import Sample

_HOUR_S: Final = 3600


def series(samples: Iterable[Sample], subject: str, figure: str) -> list[tuple[float, float]]:
    """(seconds, value) of one figure of one subject, by time."""
    return sorted(
        (s.at / 1e9, s.value) for s in samples if (s.subject, s.figure) == (subject, figure)
    )


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Growth per hour by the Theil-Sen estimator: the median of all pairwise slopes.

    A burst at the end, or a collection in the middle, does not move it. At most 300 points are
    taken, evenly. 0 for fewer than two moments.
    """
    step = max(1, math.ceil(len(points) / 300))
    taken = points[::step]
    slopes = sorted(
        (y2 - y1) / (x2 - x1)
        for index, (x1, y1) in enumerate(taken)
        for x2, y2 in taken[index + 1 :]
        if x2 > x1
    )
    return median(slopes) * _HOUR_S if slopes else 0.0


def median(ranked: Sequence[float]) -> float:
    """Of sorted values."""
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2


def percentile(values: Iterable[float], percent: float) -> float:
    """Nearest rank: a value that was measured.

    Raises:
        ValueError: there are no values.
    """
    ranked = sorted(values)
    if not ranked:
        raise ValueError("a percentile of nothing")
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def jain_index(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all shares are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def at_most_95(found: int, tries: int) -> float:
    """Upper 95 % bound of a rate that was found 0 times (rule of three); the rate itself else."""
    if not tries:
        return 1.0
    return 3 / tries if found == 0 else found / tries
