"""From a submit to a turn that waits: what is accepted is kept, once, and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from tests.chaos.history import Accept, Cancel, Connect, Decide, Get, Refusal, Scan
from tests.chaos.invariants.facts import (
    NEVER,
    RUNNING,
    TERMINAL_STATUSES,
    Facts,
    Rules,
    Verdict,
)

_MUST_SAY_WHEN: Final = frozenset({429, 503})
_POSTGRES: Final = frozenset({"postgres", "network", "api"})
"""Faults under which nobody can tell whether a commit happened."""

Key = tuple[str, str, str]


def check_no_loss(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I1: an accepted turn has exactly one row at the end, and it is terminal; a decision that was
    answered is kept.
    """
    if not facts.of(Scan):
        return  # nobody looked
    for turn, accept in facts.accepted.items():
        verdict.checked += 1
        rows = facts.finals.get(turn, [])
        if len(rows) != 1:
            verdict.violate(accept.at, turn, f"accepted, and has {len(rows)} rows at the end")
        elif rows[0].status not in TERMINAL_STATUSES:
            verdict.violate(rows[0].at, turn, f"accepted, and still {rows[0].status} at the end")
    for decide in facts.of(Decide):
        row = facts.final.get(decide.turn)
        if decide.outcome != "ok" or row is None:
            continue
        verdict.checked += 1
        lost = set(decide.decisions.split()) - set(row.decisions.split())
        if lost:
            text = f"decided, and not so at the end: {' '.join(sorted(lost))}"
            verdict.violate(decide.at, decide.turn, text)


def check_order(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I7: of one key, who was accepted before another was even sent starts before it.

    One that ended without starting counts from its end: until then it was first.
    """
    place = {turn: _place(facts, turn) for turn in facts.transitions}
    for accepts in _first_sent(facts).values():
        accepts.sort()
        answered = sorted((at, turn) for _, at, turn in accepts)
        known, latest, first_turn = 0, -1, ""
        for began, _, turn in accepts:
            while known < len(answered) and answered[known][0] < began:
                earlier = answered[known][1]
                if place.get(earlier, -1) > latest:
                    latest, first_turn = place[earlier], earlier
                known += 1
            started = _first_claim(facts, turn)
            if not known or started is None:
                continue
            verdict.checked += 1
            if started < latest:
                at = next(t.at for t in facts.transitions[turn] if t.order == started)
                verdict.violate(at, turn, f"started before {first_turn}, accepted before it")


def _first_sent(facts: Facts) -> dict[tuple[str, str], list[tuple[int, int, str]]]:
    """(first sent, first answered, turn) of each key: a turn may have been asked for often."""
    began_of: dict[str, int] = {}
    began_of_key: dict[Key, int] = {}
    for accept in facts.of(Accept):
        if accept.key:
            name = _key_of(accept)
            began_of_key[name] = min(began_of_key.get(name, NEVER), accept.began)
        if accept.outcome == "ok":
            began_of[accept.turn] = min(began_of.get(accept.turn, NEVER), accept.began)
    lines: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    for turn, accept in facts.accepted.items():
        began = began_of[turn]
        if accept.key:
            began = min(began, began_of_key[_key_of(accept)])
        changes = facts.transitions.get(turn)
        key = changes[0].concurrency_key if changes else accept.concurrency_key
        lines[accept.tenant, key].append((began, accept.at, turn))
    return lines


def _first_claim(facts: Facts, turn: str) -> int | None:
    claims = (t.order for t in facts.transitions.get(turn, ()) if t.new == RUNNING)
    return next(claims, None)


def _place(facts: Facts, turn: str) -> int:
    """When a turn left the head of its line: at its start, or its end; `NEVER` while it waits."""
    for change in facts.transitions[turn]:
        if change.new == RUNNING or change.new in TERMINAL_STATUSES:
            return change.order
    return NEVER


def check_idempotency(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I8: one key, one request, one turn, one row; the key with another request has no effect."""
    turns: dict[Key, set[str]] = defaultdict(set)
    asked: dict[Key, Accept] = {}
    for accept in facts.of(Accept):
        if not accept.key or accept.outcome != "ok":
            continue
        verdict.checked += 1
        name = _key_of(accept)
        turns[name].add(accept.turn)
        first = asked.setdefault(name, accept)
        if accept.turn != first.turn:
            verdict.violate(accept.at, accept.turn, f"key {accept.key} stood for {first.turn}")
        elif accept.fingerprint != first.fingerprint:
            verdict.violate(
                accept.at, accept.turn, f"key {accept.key} was taken with another request"
            )
    rows: dict[Key, str] = {}
    for turn, row in facts.final.items():
        if row.key:
            name = (row.tenant, row.user, row.key)
            other = rows.setdefault(name, turn)
            if other != turn and not {turn, other} <= turns[name]:  # else it is told already
                verdict.violate(row.at, turn, f"key {row.key} also made {other}")


def _key_of(accept: Accept) -> Key:
    return (accept.tenant, accept.user, accept.key)


def check_refusals(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I19: what was refused left no row; 429 and 503 say when to come again; 500 is no refusal.

    A 503 may stand for a commit whose answer was lost, but only while something was wrong on the
    way to Postgres.
    """
    made = {(row.tenant, row.user, row.key): turn for turn, row in facts.final.items() if row.key}
    answers: dict[Key, list[Accept]] = defaultdict(list)
    for accept in facts.of(Accept):
        if accept.http in _MUST_SAY_WHEN or accept.outcome == "fail":
            verdict.checked += 1
        _require_retry_after(accept, "accept", verdict)
        if accept.key:
            answers[_key_of(accept)].append(accept)
    for refusal in facts.of(Refusal):
        verdict.checked += 1
        _require_retry_after(refusal, refusal.operation, verdict)
    for answer in _all_answers(facts):
        if answer.http >= 500 and answer.http not in _MUST_SAY_WHEN:
            verdict.violate(answer.at, answer.turn, f"{type(answer).__name__}: {answer.http}")
    for name, asked in answers.items():
        turn = made.get(name)
        if turn is not None and all(_must_be_without_effect(facts, accept) for accept in asked):
            last = max(asked, key=attrgetter("at"))
            verdict.violate(last.at, turn, f"refused with {last.http}, and has a row")


def _all_answers(facts: Facts) -> Iterator[Accept | Cancel | Get | Connect]:
    yield from facts.of(Accept)
    yield from facts.of(Cancel)
    yield from facts.of(Get)
    yield from facts.of(Connect)


def _require_retry_after(answer: Accept | Refusal, operation: str, verdict: Verdict) -> None:
    if answer.http in _MUST_SAY_WHEN and answer.retry_after_s is None:
        verdict.violate(answer.at, "", f"{operation}: {answer.http} without Retry-After")


def _must_be_without_effect(facts: Facts, accept: Accept) -> bool:
    if accept.outcome == "fail":
        return True
    return accept.http == 503 and not facts.fault_during(accept.began, accept.at, _POSTGRES)
