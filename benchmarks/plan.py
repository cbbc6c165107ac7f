"""What all scenarios share: how long to measure, with which client, and how to tell of progress."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.answers import Ask
from benchmarks.load import LoadResult, run_python
from benchmarks.progress import say
from benchmarks.systems import System
from benchmarks.wrk import run_wrk

Figures: TypeAlias = dict[str, float]
_numbers = itertools.count()


@dataclass
class Plan:
    """How to measure. `notes` collects what a reader of the report must know."""

    runs: int = 3
    seconds: float = 5.0
    connections: int = 64
    wrk: str | None = None
    finished: int = 5_000_000
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def client(self) -> str:
        return "wrk" if self.wrk else "python"

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            say(f"    note: {text}")

    def fail(self, text: str) -> None:
        self.failures.append(text)
        say(f"    FAILED {text}")

    def load(self, system: System, ask: Ask, seconds: float | None = None) -> LoadResult:
        """Saturates a system with one ask; a wrong answer becomes a note."""
        prefix = f"r{next(_numbers)}"
        seconds = seconds or self.seconds
        if self.wrk:
            result = run_wrk(
                self.wrk, system.port, ask, prefix, connections=self.connections, seconds=seconds
            )
        else:
            result = run_python(
                system.port, ask, prefix, connections=self.connections, seconds=seconds
            )
        if result.bad:
            self.note(f"{system.name}: {result.bad} of {result.done} wrong ({result.fault})")
        return result

    def settle(self, system: System, patience_s: float, held: int = 0) -> bool:
        """Waits until all turns but `held` have ended and none is queued; False when it is long."""
        deadline = time.monotonic() + patience_s
        while open_turns(system.count_turns()) > held or system.count_queued():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def open_turns(counts: dict[str, int]) -> int:
    """Turns that have not ended."""
    return sum(counts.get(status, 0) for status in ("pending", "queued", "running"))
