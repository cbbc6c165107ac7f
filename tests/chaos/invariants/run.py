"""While a turn runs: who may run it, how many at once, and whose writes count."""

from __future__ import annotations

import signal
from collections import defaultdict
from itertools import pairwise
from typing import Final

from shared.turn.state import TRANSITIONS
from tests.chaos.history import (
    Accept,
    Append,
    Commit,
    FaultHealed,
    Overdue,
    Signalled,
    Transition,
)
from tests.chaos.invariants.facts import (
    COMPLETED,
    NEVER,
    NS,
    PARKED,
    PENDING,
    RUNNING,
    TERMINAL_STATUSES,
    Facts,
    Rules,
    Verdict,
)

_EDGES: Final = frozenset(
    {("", PENDING)} | {(str(source), str(target)) for (source, _), target in TRANSITIONS.items()}
)


def check_transitions(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I2: one end per turn, nothing after it, and only the state machine's edges.

    What does not begin where the last change ended, or is not where the last one led, was changed
    behind the trigger's back.
    """
    for turn, changes in facts.transitions.items():
        ends = 0
        for change in changes:
            verdict.checked += 1
            ends += change.new in TERMINAL_STATUSES
            if (change.old, change.new) not in _EDGES:
                verdict.violate(change.at, turn, f"{change.old or 'nothing'} became {change.new}")
            elif ends > 1:
                verdict.violate(change.at, turn, f"ended again, as {change.new}")
        for before, after in pairwise(changes):
            if before.new != after.old and (after.old, after.new) in _EDGES:
                verdict.violate(after.at, turn, f"was {before.new}, then {after.old}")
        row = facts.final.get(turn)
        if row is not None and row.status != changes[-1].new:
            verdict.violate(row.at, turn, f"became {changes[-1].new}, stored is {row.status}")


def check_liveness(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I3: every accepted turn has ended soon after the last fault; none runs without a lease."""
    quiet: list[FaultHealed | Accept] = [*facts.of(FaultHealed), *facts.of(Accept)]
    quiet_at = max((event.at for event in quiet), default=0)
    latest = quiet_at + round(rules.settle_s * NS)
    for turn in facts.accepted:
        changes = facts.transitions.get(turn, ())
        end = next((c for c in changes if c.new in TERMINAL_STATUSES), None)
        if end is None:
            continue  # whether it ended at all is I1's to say
        verdict.checked += 1
        if end.at > latest:
            late_s = (end.at - quiet_at) / NS
            verdict.violate(end.at, turn, f"ended {late_s:.1f} s after all was quiet")
    patience_s = 2 * rules.lease_s
    for overdue in facts.of(Overdue):
        verdict.checked += 1
        lapsed_at = overdue.at - round(overdue.lapsed_s * NS)
        since = lapsed_at - round(patience_s * NS)
        if overdue.lapsed_s > patience_s and not facts.fault_during(since, overdue.at):
            message = f"running, though its lease lapsed {overdue.lapsed_s:.1f} s before"
            verdict.violate(overdue.at, overdue.turn, message)


def check_fencing(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I4: attempts rise with every claim, and no worker ends what is no longer its own."""
    workers = _workers_of_sessions(facts)
    for turn, changes in facts.transitions.items():
        for change in changes:
            if change.new == RUNNING:
                verdict.checked += 1
                if change.attempt <= change.old_attempt:
                    text = f"claimed as attempt {change.attempt} after {change.old_attempt}"
                    verdict.violate(change.at, turn, text)
            elif change.old == RUNNING:
                verdict.checked += 1
                if wrong := _wrong_end(change, workers.get(change.session)):
                    verdict.violate(change.at, turn, wrong)
    _check_commits(facts, verdict)


def _workers_of_sessions(facts: Facts) -> dict[str, str]:
    """Which worker a connection to Postgres belongs to: it claimed in that worker's name."""
    return {
        change.session: change.worker
        for change in facts.of(Transition)
        if change.new == RUNNING and change.session
    }


def _wrong_end(change: Transition, writer: str | None) -> str:
    if change.attempt < change.old_attempt:
        return f"attempt fell from {change.old_attempt} to {change.attempt}"
    if change.new not in (COMPLETED, PARKED):
        return ""  # a reaper or a cancel may end or return a turn of any worker
    if change.attempt != change.old_attempt:
        return f"{change.new} as attempt {change.attempt}, was {change.old_attempt}"
    if writer is not None and writer != change.old_worker:
        return f"{change.new} by {writer} while it was {change.old_worker}'s"
    return ""


def _check_commits(facts: Facts, verdict: Verdict) -> None:
    for commit in facts.of(Commit):
        if commit.outcome != "ok":
            continue
        verdict.checked += 1
        for change in facts.transitions.get(commit.turn, ()):
            is_newer = change.new == RUNNING and change.attempt > commit.attempt
            if is_newer and change.at < commit.began:
                text = f"commit of attempt {commit.attempt} after claim {change.attempt}"
                verdict.violate(commit.at, commit.turn, text)
                break


def check_log(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I5: what was appended to a turn's log never goes back to an older attempt."""
    newest: dict[str, int] = {}
    for append in facts.of(Append):
        if append.outcome != "ok":
            continue
        verdict.checked += 1
        before = newest.get(append.turn, 0)
        if append.attempt < before:
            text = f"{append.attempt}-{append.first_seq} appended after attempt {before}"
            verdict.violate(append.at, append.turn, text)
        else:
            newest[append.turn] = append.attempt


def check_limits(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I6: never more running turns of a key than its limit, and each in a slot of its own, which
    a parked turn keeps.
    """
    running: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for change in facts.ordered_transitions:
        of_key = running[change.tenant, change.concurrency_key]
        if change.new == PARKED:
            continue
        if change.new != RUNNING:
            of_key.pop(change.turn, None)
            continue
        verdict.checked += 1
        of_key.pop(change.turn, None)
        if len(of_key) >= change.limit:
            others = ", ".join(list(of_key)[:3])
            text = f"claimed on {change.concurrency_key!r} (limit {change.limit}) beside {others}"
            verdict.violate(change.at, change.turn, text)
        elif change.slot and change.slot in of_key.values():
            verdict.violate(change.at, change.turn, f"claimed slot {change.slot}, which is taken")
        of_key[change.turn] = change.slot


def check_drain(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I21: after SIGTERM a worker claims nothing, and what it returns costs no crash budget."""
    told: dict[int, int] = {}
    killed: dict[int, int] = {}
    for sent in facts.of(Signalled):
        if sent.signal == signal.SIGTERM.name:
            told.setdefault(sent.pid, sent.at)
        elif sent.signal == signal.SIGKILL.name:
            killed.setdefault(sent.pid, sent.at)
    verdict.checked += len(told)
    grace = round(rules.drain_grace_s * NS)
    for change in facts.of(Transition) if told else ():
        asked_at = told.get(pid_of(change.worker), NEVER)
        if change.new == RUNNING and change.at > asked_at + grace:
            verdict.violate(change.at, change.turn, f"claimed by {change.worker} after SIGTERM")
        leaving = pid_of(change.old_worker)
        is_crash = change.crash_count > change.old_crash_count
        if is_crash and told.get(leaving, NEVER) < change.at and leaving not in killed:
            text = f"cost crash budget, though {change.old_worker} was only asked to leave"
            verdict.violate(change.at, change.turn, text)


def pid_of(worker: str) -> int:
    """The process of a worker's id, `host-pid-random`; -1 when there is none in it."""
    parts = worker.rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else -1
