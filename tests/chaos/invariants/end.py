"""The end of a turn: cancels hold, reads do not go back, effects happen once."""

from __future__ import annotations

import heapq
from collections import defaultdict
from operator import attrgetter

from tests.chaos.history import Accept, Cancel, DeadLetter, Delivery, Frame, Get, Usage
from tests.chaos.invariants.facts import (
    CANCELLED,
    COMPLETED,
    NS,
    TERMINAL_STATUSES,
    Facts,
    Rules,
    Verdict,
    grouped,
)
from tests.chaos.invariants.stream import DELTA, ENDED


def check_cancels(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I12: an acknowledged cancel tells how the turn ended, and no open stream says more of it."""
    acknowledged: dict[str, Cancel] = {}
    for cancel in facts.of(Cancel):
        if cancel.outcome != "ok":
            continue
        verdict.checked += 1
        row = facts.final.get(cancel.turn)
        if cancel.status and cancel.status not in TERMINAL_STATUSES:
            verdict.violate(cancel.at, cancel.turn, f"acknowledged, and still {cancel.status}")
        elif cancel.status and row is not None and row.status != cancel.status:
            text = f"acknowledged as {cancel.status}, stored is {row.status}"
            verdict.violate(cancel.at, cancel.turn, text)
        elif cancel.status == CANCELLED:
            acknowledged.setdefault(cancel.turn, cancel)
    grace = round(rules.cancel_grace_s * NS)
    for name, frames in facts.frames.items() if acknowledged else ():
        connect = facts.connections[name]
        acked = acknowledged.get(connect.turn)
        if acked is None or connect.at > acked.at:
            continue  # who was not there yet is told what was kept
        for frame in frames:
            is_late = frame.type == DELTA and frame.at > acked.at + grace
            # A process that stands still cannot take back what it was about to send.
            if is_late and not facts.fault_during(acked.began, frame.at):
                late_s = (frame.at - acked.at) / NS
                text = f"{connect.chain}: a delta {late_s:.2f} s after the cancel's answer"
                verdict.violate(frame.at, connect.turn, text)


def check_reads(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I13: who was told something is not told less by a read begun after that."""
    told = _tellings(facts)
    for turn, gets in grouped(facts.of(Get), "turn").items():
        accept = facts.accepted.get(turn)
        known = told.get(turn, [])
        heapq.heapify(known)
        end, attempt = "", 0
        for get in sorted(gets, key=attrgetter("began")):
            if get.outcome != "ok" or get.tenant != facts.owner.get(turn):
                continue
            while known and known[0][0] < get.began:
                _, status, told_attempt = heapq.heappop(known)
                attempt = max(attempt, told_attempt)
                end = end or (status if status in TERMINAL_STATUSES else "")
            if get.http == 404:
                verdict.checked += 1
                if accept is not None and accept.at < get.began:
                    verdict.violate(get.at, turn, "not found after it was accepted")
            elif get.status:
                verdict.checked += 1
                if end and get.status != end:
                    verdict.violate(get.at, turn, f"{get.status} after {end} was told")
                elif get.attempt < attempt:
                    text = f"attempt {get.attempt} after {attempt} was told"
                    verdict.violate(get.at, turn, text)


def _tellings(facts: Facts) -> dict[str, list[tuple[int, str, int]]]:
    """(at, status, attempt) of everything that told a client how far a turn is."""
    told: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for get in facts.of(Get):
        if get.outcome == "ok" and get.status and get.tenant == facts.owner.get(get.turn):
            told[get.turn].append((get.at, get.status, get.attempt))
    answers: list[Accept | Cancel] = [*facts.of(Accept), *facts.of(Cancel)]
    for answer in answers:
        if answer.outcome == "ok" and answer.status:
            told[answer.turn].append((answer.at, answer.status, 0))
    for frame in facts.of(Frame):
        if frame.type == ENDED:
            turn = facts.connections[frame.connection].turn
            told[turn].append((frame.at, frame.status, frame.attempt))
    return told


def check_effects(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I16: one question, one commit of the answer, one usage row, one id per webhook."""
    bills = grouped(facts.of(Usage), "turn")
    for turn, row in facts.final.items():
        verdict.checked += 1
        count = len(bills.get(turn, ()))
        if count > 1 or (count == 0 and row.status == COMPLETED):
            verdict.violate(row.at, turn, f"{row.status}, and has {count} usage rows")
        if row.questions != 1:
            verdict.violate(row.at, turn, f"has {row.questions} messages of its user")
        if row.answer_commits > 1 + row.parked_count:
            verdict.violate(row.at, turn, f"was answered in {row.answer_commits} commits")
    ids: dict[tuple[str, str], str] = {}
    sent: list[Delivery | DeadLetter] = [*facts.of(Delivery), *facts.of(DeadLetter)]
    for delivery in sent:
        verdict.checked += 1
        name = (delivery.turn, delivery.event)
        if ids.setdefault(name, delivery.webhook_id) != delivery.webhook_id:
            text = f"{delivery.event} was sent under {ids[name]} and {delivery.webhook_id}"
            verdict.violate(delivery.at, delivery.turn, text)


def check_webhooks(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I17: every webhook that is owed was taken or is a dead letter, and all are signed."""
    served = {letter.turn for letter in facts.of(DeadLetter)}
    for delivery in facts.of(Delivery):
        verdict.checked += 1
        if 200 <= delivery.http < 300:
            served.add(delivery.turn)
        if not delivery.is_signed:
            verdict.violate(delivery.at, delivery.turn, "delivered with a wrong signature")
    for turn, accept in facts.accepted.items():
        row = facts.final.get(turn)
        if not accept.webhook or row is None or row.status not in TERMINAL_STATUSES:
            continue
        verdict.checked += 1
        if turn not in served:
            verdict.violate(row.at, turn, f"{row.status}, and no webhook was taken or given up")
