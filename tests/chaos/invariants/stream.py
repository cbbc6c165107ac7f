"""What readers of the native protocol were told; `docs/architecture.md`, "Events and cursors".

A reader is a chain of connections, each of which goes on behind the last id of the one before. An
event with seq 0 was told from Postgres: it has no place, and a reader that breaks off behind it
starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.chaos.history import Cancel, Frame
from tests.chaos.invariants.facts import (
    CANCELLED,
    COMPLETED,
    NS,
    Chain,
    Facts,
    Rules,
    Verdict,
    parse_cursor,
)

STARTED: Final = "turn.started"
ENDED: Final = "turn.ended"
DELTA: Final = "message.delta"
SNAPSHOT: Final = "turn.snapshot"
COMMENT: Final = "comment"
RECONNECT: Final = "stream.reconnect"
ASKED: Final = "turn.awaiting_approval"
_TOOLS: Final = frozenset({"tool.call", "tool.result"})
_WITHOUT_PLACE: Final = frozenset({"turn.queued", RECONNECT, COMMENT, ""})
_TOLD_FROM_POSTGRES: Final = frozenset({DELTA, "reasoning.delta"})


def frames_of(facts: Facts, chain: Chain) -> Iterator[Frame]:
    """Everything one reader was told, over all its connections."""
    for connect in chain.connections:
        yield from facts.frames.get(connect.connection, ())


def check_resume(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I9: within an attempt 1, 2, 3, … each once; attempts rise, and each is announced."""
    for chain in facts.chains:
        place = _Place(facts, *parse_cursor(chain.connections[0].after))
        for connect in chain.connections:
            if parse_cursor(connect.after) != (place.attempt, place.seq):
                text = f"{chain.name} asked behind {connect.after}, and was at {place}"
                verdict.violate(connect.began, chain.turn, text)
                place.move_to(*parse_cursor(connect.after))
            place.reconnect()
            for frame in facts.frames.get(connect.connection, ()):
                if frame.type in _WITHOUT_PLACE:
                    continue
                verdict.checked += 1
                if wrong := place.take(frame):
                    verdict.violate(frame.at, chain.turn, f"{chain.name}: {wrong}")


class _Place:
    """Where a reader is, and what may come next."""

    def __init__(self, facts: Facts, attempt: int, seq: int) -> None:
        self._facts = facts
        self.move_to(attempt, seq)

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    def move_to(self, attempt: int, seq: int) -> None:
        self.attempt = attempt
        self.seq = seq
        self._is_over = False
        self.reconnect()

    def reconnect(self) -> None:
        """A replay that was broken off does not go on: it starts over."""
        self._is_retold = False
        """A replay from Postgres has begun."""
        self._told: set[str] = set()
        """What it has told; each kind comes once."""

    def take(self, frame: Frame) -> str:
        """Goes on to the frame; what is wrong with it, or nothing.

        Behind the end nothing counts here: that is I11's to say.
        """
        if self._is_over:
            return ""
        wrong = self._judge(frame)
        self.attempt, self.seq = frame.attempt, frame.seq
        self._is_over = frame.type == ENDED
        if frame.type == STARTED:
            self._is_retold = frame.seq == 0
            self._told.clear()
        return f"{frame.type} {frame.attempt}-{frame.seq} {wrong}" if wrong else ""

    def _judge(self, frame: Frame) -> str:
        if frame.attempt < self.attempt:
            return f"behind attempt {self.attempt}"
        if frame.type == STARTED:
            return self._judge_start(frame)
        if frame.type == ENDED:
            return self._judge_end(frame)
        if frame.type == SNAPSHOT:
            return self._judge_snapshot(frame)
        if frame.type == ASKED and self.seq == 0 and frame.attempt == self.attempt > 0:
            return ""  # behind a replay
        if frame.seq == 0:
            return self._judge_replay(frame)
        if frame.attempt > self.attempt:
            return "before its attempt was announced"
        return "" if frame.seq == self.seq + 1 else f"after {self}"

    def _judge_start(self, frame: Frame) -> str:
        starts_over = frame.attempt == self.attempt and self.seq == 0
        if frame.attempt == self.attempt and not starts_over:
            return f"announced again, after {self}"
        return "" if frame.seq <= 1 else "is not the first of its attempt"

    def _judge_end(self, frame: Frame) -> str:
        if frame.status == CANCELLED:
            return ""  # the deltas before it may be left out
        if frame.attempt > self.attempt:
            # Nobody ran this attempt: it was raised to end the turn.
            return "" if frame.seq == 1 and frame.status != COMPLETED else "without its attempt"
        was_replayed = self.seq == 0 and self.attempt > 0
        return "" if was_replayed or frame.seq == self.seq + 1 else f"after {self}"

    def _judge_snapshot(self, frame: Frame) -> str:
        if frame.seq != 0 or frame.attempt != self.attempt or self.seq == 0:
            return f"after {self}, which had nothing to replace"
        if not self._facts.fault_before(frame.at):
            return "though no log can have been lost: there had been no fault"
        return ""

    def _judge_replay(self, frame: Frame) -> str:
        if frame.type in _TOOLS and (frame.attempt, self.seq) == (self.attempt, 0):
            self._told.clear()  # what a parked turn had said between its calls comes apart
            return ""
        if frame.type not in _TOLD_FROM_POSTGRES:
            return "has no place"
        if not self._is_retold or (frame.attempt, self.seq) != (self.attempt, 0):
            return f"has no place, after {self}"
        if frame.type in self._told:
            return "told twice: a replay has all text in one"
        self._told.add(frame.type)
        return ""


def check_agreement(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I10: all readers see the same at one place, and the text at the end is what is stored."""
    seen: dict[str, dict[tuple[int, int], str]] = {}
    for chain in facts.chains:
        at_place = seen.setdefault(chain.turn, {})
        for frame in frames_of(facts, chain):
            # A cancelled turn's end names its answer, and that may be kept after the end was told.
            if frame.seq == 0 or not frame.digest or frame.status == CANCELLED:
                continue
            verdict.checked += 1
            if at_place.setdefault((frame.attempt, frame.seq), frame.digest) != frame.digest:
                text = f"{chain.name} was told something else at {frame.attempt}-{frame.seq}"
                verdict.violate(frame.at, chain.turn, text)
    replaced = {cancel.turn for cancel in facts.of(Cancel) if cancel.sent_text}
    for chain in facts.chains:
        row = facts.final.get(chain.turn)
        end = _end_of(facts, chain)
        if row is None or end is None:
            continue
        verdict.checked += 1
        if end.status != row.status:
            text = f"{chain.name} was told {end.status}, stored is {row.status}"
            verdict.violate(end.at, chain.turn, text)
            continue
        told = _text_of(facts, chain)
        if told is not None and chain.turn not in replaced and not _agree(told, row.text, end):
            text = f"{chain.name} has {told[-40:]!r} at the end, stored is {row.text[-40:]!r}"
            verdict.violate(end.at, chain.turn, text)


def _end_of(facts: Facts, chain: Chain) -> Frame | None:
    return next((frame for frame in frames_of(facts, chain) if frame.type == ENDED), None)


def _text_of(facts: Facts, chain: Chain) -> str | None:
    """What the reader has at the end; None when it came in the middle of the text."""
    pieces: list[str] | None = None if chain.connections[0].after != "0-0" else []
    for frame in frames_of(facts, chain):
        if frame.type == STARTED:
            pieces = []
        elif frame.type == SNAPSHOT:
            pieces = [frame.text]
        elif frame.type == DELTA and pieces is not None:
            pieces.append(frame.text)
        elif frame.type == ENDED:
            break
    return None if pieces is None else "".join(pieces)


def _agree(told: str, stored: str, end: Frame) -> bool:
    """A completed turn's texts are equal. Of others, one may have gone further than the other:
    deltas before a cancel's end may be left out, and a worker may die with the text unkept.
    """
    if end.status == COMPLETED:
        return told == stored
    return told.startswith(stored) or stored.startswith(told)


def check_end(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I11: nothing follows the end; no response ends in good order before it without saying so;
    none is silent for longer than a keep-alive.
    """
    for chain in facts.chains:
        is_over = False
        for connect in chain.connections:
            if connect.outcome != "ok":
                continue
            verdict.checked += 1
            frames = facts.frames.get(connect.connection, [])
            for frame in frames:
                if is_over and frame.type not in {COMMENT, ""}:
                    verdict.violate(frame.at, chain.turn, f"{chain.name}: {frame.type} after end")
                is_over = is_over or frame.type == ENDED
            _check_goodbye(facts, chain, connect.connection, verdict)
            _check_silence(facts, chain, connect.connection, rules, verdict)


def _check_goodbye(facts: Facts, chain: Chain, connection: str, verdict: Verdict) -> None:
    end = facts.disconnects.get(connection)
    if end is None or end.cause != "ended":
        return
    said = [frame.type for frame in facts.frames.get(connection, ()) if frame.type != COMMENT]
    if ENDED in said or (said and said[-1] == RECONNECT):
        return
    revoked = facts.revoked_at.get(facts.connections[connection].credential)
    if revoked is None or revoked.began > end.at:
        verdict.violate(end.at, chain.turn, f"{chain.name}: ended by the server without a word")


def _check_silence(
    facts: Facts, chain: Chain, connection: str, rules: Rules, verdict: Verdict
) -> None:
    most = round((rules.keep_alive_s + rules.silence_grace_s) * NS)
    moments = [facts.connections[connection].at]
    moments += [frame.at for frame in facts.frames.get(connection, ())]
    end = facts.disconnects.get(connection)
    if end is not None:
        moments.append(end.at)
    for before, after in pairwise(moments):
        if after - before > most and not facts.fault_during(before, after):
            text = f"{chain.name}: silent for {(after - before) / NS:.1f} s"
            verdict.violate(after, chain.turn, text)
