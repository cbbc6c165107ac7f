"""Checks a recorded history against the invariants: `python -m tests.chaos.checker FILE …`.

Every check is a pure function of the history's facts; they stand in `tests/chaos/invariants`, along
the life of a turn. A check that had nothing to look at says so: it is never `ok`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from tests.chaos.history import Accept, Event, HistoryError, read
from tests.chaos.invariants import accept, end, run, stream, whole
from tests.chaos.invariants.facts import Facts, Rules, Verdict, Violation

__all__ = ["CHECKS", "Report", "Rules", "Verdict", "Violation", "check"]

Check = Callable[[Facts, Rules, Verdict], None]

CHECKS: Final[dict[str, tuple[str, Check]]] = {
    "I1": ("no loss", accept.check_no_loss),
    "I2": ("one end", run.check_transitions),
    "I3": ("bounded liveness", run.check_liveness),
    "I4": ("fencing", run.check_fencing),
    "I5": ("log monotone", run.check_log),
    "I6": ("limit", run.check_limits),
    "I7": ("first in, first out", accept.check_order),
    "I8": ("idempotency", accept.check_idempotency),
    "I9": ("gapless resume", stream.check_resume),
    "I10": ("agreement", stream.check_agreement),
    "I11": ("the end is last", stream.check_end),
    "I12": ("cancel", end.check_cancels),
    "I13": ("session reads", end.check_reads),
    "I14": ("tenant isolation", whole.check_isolation),
    "I15": ("reply match", whole.check_replies),
    "I16": ("effects once", end.check_effects),
    "I17": ("webhooks", end.check_webhooks),
    "I19": ("honest refusals", accept.check_refusals),
    "I21": ("drain", run.check_drain),
    "I22": ("no residue", whole.check_residue),
    "I23": ("revocation", whole.check_revocation),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What the checks of one history found."""

    verdicts: tuple[Verdict, ...]
    events: int
    torn: int
    unresolved: int
    """Submits of which nobody can say whether they were accepted."""
    took_s: float

    @property
    def is_ok(self) -> bool:
        """No violation; says nothing of what was not exercised."""
        return not any(verdict.count for verdict in self.verdicts)

    @property
    def violations(self) -> list[Violation]:
        return [violation for verdict in self.verdicts for violation in verdict.violations]

    @property
    def violated(self) -> set[str]:
        """Names of the invariants that do not hold."""
        return {verdict.invariant for verdict in self.verdicts if verdict.count}

    @property
    def not_exercised(self) -> list[str]:
        return [v.invariant for v in self.verdicts if not (v.checked or v.count)]

    def __str__(self) -> str:
        lines = [
            f"{self.events} events, {self.torn} torn lines, {self.unresolved} submits unresolved; "
            f"checked in {self.took_s:.1f} s"
        ]
        for verdict in self.verdicts:
            lines.append(
                f"{verdict.invariant:>4}  {verdict.title:<20} {verdict.word:<14}"
                f" {verdict.checked:>9} checked {verdict.count:>6} violations"
            )
            lines += [f"        {violation}" for violation in verdict.violations]
            if verdict.count > len(verdict.violations):
                lines.append(f"        and {verdict.count - len(verdict.violations)} more")
        return "\n".join(lines)


def check(history: Iterable[Event], rules: Rules | None = None, *, torn: int = 0) -> Report:
    """Every check of a whole history.

    Raises:
        HistoryError: the history contradicts itself, so nothing can be said about it.
    """
    began = time.monotonic()
    events = list(history)
    facts = Facts(events)
    rules = rules or Rules()
    verdicts = []
    for name, (title, check_one) in CHECKS.items():
        verdict = Verdict(name, title)
        check_one(facts, rules, verdict)
        verdicts.append(verdict)
    took_s = time.monotonic() - began
    return Report(tuple(verdicts), len(events), torn, _count_unresolved(facts), took_s)


def _count_unresolved(facts: Facts) -> int:
    resolved = {(a.tenant, a.user, a.key) for a in facts.of(Accept) if a.outcome != "unknown"}
    unknown = [a for a in facts.of(Accept) if a.outcome == "unknown"]
    without_key = sum(not a.key for a in unknown)
    return without_key + len({(a.tenant, a.user, a.key) for a in unknown if a.key} - resolved)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: nothing is violated; 1: something is; 2: no history."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.checker", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="histories of one run, JSON lines")
    for rule in fields(Rules):
        option = "--" + rule.name.replace("_", "-")
        parser.add_argument(option, type=float, default=rule.default, metavar="S")
    given = vars(parser.parse_args(arguments))
    try:
        recorded = read(*given.pop("files"))
        report = check(recorded.events, Rules(**given), torn=recorded.torn)
    except (HistoryError, OSError) as error:
        print(f"turnkeep: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
