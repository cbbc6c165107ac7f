"""F57, F58: load for long, a random fault every so often, and nothing that grows.

`python -m tests.chaos --soak MINUTES` draws its faults from those that leave the deployment as it
was within seconds, by the seed.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.arena import Fault
from tests.chaos.catalogue import FAULTS
from tests.fixtures.chance import seeded

DRAWN: Final = (
    "F01", "F03", "F04", "F07", "F08", "F09", "F15", "F18", "F19", "F21", "F22", "F27", "F29",
    "F30", "F31", "F33", "F35", "F39", "F44", "F45", "F46", "F51",
)  # fmt: skip
PACE: Final = 0.1
"""Windows and repetitions of one fault: as short as they can be."""
SETTINGS: Final = {"TURNKEEP_EVENT_LOG_TTL_S": "120"}
"""Logs of turns that ended go before long, so that what Redis holds comes to a level."""
INTERVAL_S: Final = 60.0
"""From the beginning of one fault to that of the next."""


def draw(seed: int, minutes: float) -> list[Fault]:
    """One fault a minute."""
    chance = seeded(seed)
    return [FAULTS[chance.choice(DRAWN)] for _ in range(max(1, round(minutes)))]
