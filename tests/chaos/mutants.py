"""Planted violations: a good history with one thing wrong, and the invariant that must see it.

A checker that cannot fail proves nothing: `python -m tests.chaos.mutants` prints the score.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from tests.chaos import history as h
from tests.chaos.checker import check
from tests.chaos.invariants.facts import Facts
from tests.chaos.stories import MS, Story

V = TypeVar("V")
Events = list[h.Event]
Plant = Callable[[Facts, Events], Events]
"""The history with the violation in it. Raises `NoPlaceError`."""

MUTANTS: Final[dict[str, tuple[str, Plant]]] = {}
"""What is wrong → (the invariant, how to plant it)."""
SEEDS: Final = 40
"""Every mutant is planted in all of the first stories that have a place for it."""


def plants(invariant: str, what: str) -> Callable[[Plant], Plant]:
    def keep(put: Plant) -> Plant:
        MUTANTS[what] = (invariant, put)
        return put

    return keep


class NoPlaceError(Exception):
    """This history has no place for the violation."""


def plant(what: str, events: Events) -> Events | None:
    """The history with a violation in it; None when it has no place for that."""
    _, put = MUTANTS[what]
    try:
        return put(Facts(events), events)
    except NoPlaceError:
        return None


@dataclass(frozen=True, slots=True)
class Score:
    planted: int
    caught: int
    histories: int
    missed: tuple[str, ...]
    """Not caught in every history, or caught by other invariants too."""

    def __str__(self) -> str:
        text = f"{self.caught}/{self.planted} mutants caught, in {self.histories} histories"
        return "; ".join((text, *self.missed))


def mutation_score(seeds: Iterable[int] = range(SEEDS)) -> Score:
    """How many mutants the checker catches by exactly the invariant they break."""
    stories = [Story(seed).tell() for seed in seeds]
    missed: list[str] = []
    histories = 0
    for what, (invariant, _) in MUTANTS.items():
        planted = [bad for events in stories if (bad := plant(what, events)) is not None]
        histories += len(planted)
        found = [check(bad).violated for bad in planted]
        if not planted or any(violated != {invariant} for violated in found):
            seen = sorted({name for violated in found for name in violated})
            missed.append(f"{invariant} {what}: {', '.join(seen) or 'nothing'} in {len(planted)}")
    return Score(len(MUTANTS), len(MUTANTS) - len(missed), histories, tuple(missed))


# -- how to plant


def _swap(events: Events, old: h.Event, *new: h.Event) -> Events:
    """`new` in place of `old`."""
    place = next(index for index, event in enumerate(events) if event is old)
    return [*events[:place], *new, *events[place + 1 :]]


def _change(events: Events, old: Any, **fields: Any) -> Events:
    return _swap(events, old, replace(old, **fields))


def _first(found: Iterable[V]) -> V:
    for one in found:
        return one
    raise NoPlaceError


def _end_of_time(events: Events) -> int:
    """Later than everything, and than every fault."""
    return max(event.at for event in events) + 1000 * MS


def _rows(facts: Facts, status: str) -> list[h.FinalState]:
    return [row for row in facts.of(h.FinalState) if row.status == status]


def _ends(facts: Facts, status: str) -> list[h.Transition]:
    return [t for t in facts.ordered_transitions if t.new == status and t.old == "running"]


def _readers(facts: Facts) -> set[str]:
    return {connect.turn for connect in facts.of(h.Connect)}


def _asked(facts: Facts) -> set[str]:
    """Turns that somebody read or cancelled."""
    return {get.turn for get in facts.of(h.Get)} | {c.turn for c in facts.of(h.Cancel)}


def _accept(facts: Facts, row: h.FinalState) -> h.Accept:
    return facts.accepted[row.turn]


def _get(facts: Facts, events: Events, row: h.FinalState, **fields: Any) -> h.Get:
    at = _end_of_time(events)
    given: dict[str, Any] = {"http": 200, "status": row.status, "attempt": row.attempt}
    given |= {"tenant": row.tenant, **fields}
    return h.Get(began=at, at=at + MS, outcome="ok", turn=row.turn, **given)


# -- accept


@plants("I1", "a row is lost")
def _(facts: Facts, events: Events) -> Events:
    return _swap(events, _first(_rows(facts, "completed")))


@plants("I1", "all rows are lost")
def _(facts: Facts, events: Events) -> Events:
    return [event for event in events if not isinstance(event, h.FinalState)]


@plants("I1", "a row is there twice")
def _(facts: Facts, events: Events) -> Events:
    return [*events, facts.of(h.FinalState)[0]]


@plants("I1", "a decision is lost")
def _(facts: Facts, events: Events) -> Events:
    decide = _first(facts.of(h.Decide))
    return _change(events, facts.final[decide.turn], decisions="")


@plants("I1", "a decision is turned round")
def _(facts: Facts, events: Events) -> Events:
    decide = _first(facts.of(h.Decide))
    turned = decide.decisions.translate(str.maketrans("yn", "ny"))
    return _change(events, facts.final[decide.turn], decisions=turned)


@plants("I1", "a turn never ends")
def _(facts: Facts, events: Events) -> Events:
    busy = _readers(facts) | _asked(facts)
    last = {(t.tenant, t.concurrency_key): t for t in facts.ordered_transitions}.values()
    end = _first(t for t in last if t.old == "running" and t.turn not in busy)
    without_end = _swap(events, end)
    return _change(without_end, facts.final[end.turn], status="running")


@plants("I7", "the later one starts first")
def _(facts: Facts, events: Events) -> Events:
    """Says that the second of a line was accepted before the first was sent."""
    started = [t for t in facts.ordered_transitions if t.new == "running" and t.attempt == 1]
    for first in started:
        for later in started:
            same = (later.tenant, later.concurrency_key) == (first.tenant, first.concurrency_key)
            if same and first.limit == 1 and later.order > first.order:
                at = facts.accepted[first.turn].began - 10_000 * MS
                accept = facts.accepted[later.turn]
                return _change(events, accept, began=at - MS, at=at)
    raise NoPlaceError


@plants("I7", "one starts before another that waits in vain")
def _(facts: Facts, events: Events) -> Events:
    ends = [t for t in facts.ordered_transitions if t.old == "pending" and t.old_attempt == 0]
    for end in ends:
        for other in facts.ordered_transitions:
            same = (other.tenant, other.concurrency_key) == (end.tenant, end.concurrency_key)
            began = other.new == "running" and other.order < end.order
            if same and began and end.new != "running":
                at = min(accept.began for accept in facts.of(h.Accept)) - 10 * MS
                return _change(events, facts.accepted[end.turn], began=at - MS, at=at)
    raise NoPlaceError


@plants("I8", "a key leads to another turn")
def _(facts: Facts, events: Events) -> Events:
    one = facts.of(h.FinalState)[0]
    other = _first(r for r in facts.of(h.FinalState) if r.tenant == one.tenant and r is not one)
    at = _end_of_time(events)
    accept = replace(_accept(facts, one), began=at, at=at + MS, status="")
    return [*events, replace(accept, turn=other.turn)]


@plants("I8", "a key is taken with another request")
def _(facts: Facts, events: Events) -> Events:
    accept = _accept(facts, facts.of(h.FinalState)[0])
    at = _end_of_time(events)
    return [*events, replace(accept, began=at, at=at, status="", fingerprint="other")]


@plants("I8", "a key has two rows")
def _(facts: Facts, events: Events) -> Events:
    row = facts.of(h.FinalState)[0]
    return [*events, replace(row, turn="phantom", status="expired", text="", answer_commits=0)]


@plants("I19", "a 429 without Retry-After")
def _(facts: Facts, events: Events) -> Events:
    refused = _first(a for a in facts.of(h.Accept) if a.http == 429)
    return _change(events, refused, retry_after_s=None)


@plants("I19", "a 503 without Retry-After")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(facts.of(h.Refusal)), retry_after_s=None)


@plants("I19", "a cancel meets a defect")
def _(facts: Facts, events: Events) -> Events:
    cancel = _first(facts.of(h.Cancel))
    defect = replace(cancel, at=cancel.began, outcome="unknown", http=500, status="")
    return [*events, defect]


@plants("I19", "a read meets a defect")
def _(facts: Facts, events: Events) -> Events:
    get = _first(facts.of(h.Get))
    return [*events, replace(get, at=get.began, outcome="unknown", http=502, status="", digest="")]


def _only_answer(facts: Facts, events: Events, **fields: Any) -> Events:
    row = facts.of(h.FinalState)[-1]
    at = _end_of_time(events)
    accept = replace(_accept(facts, row), began=at, at=at + MS, turn="", status="", **fields)
    rest = [e for e in events if not (isinstance(e, h.Accept) and e.key == row.key)]
    return [*rest, accept]


@plants("I19", "what was refused has a row")
def _(facts: Facts, events: Events) -> Events:
    return _only_answer(facts, events, outcome="fail", http=409)


@plants("I19", "a 503 out of nowhere has a row")
def _(facts: Facts, events: Events) -> Events:
    return _only_answer(facts, events, outcome="unknown", http=503, retry_after_s=2)


# -- run


@plants("I2", "a turn ends twice")
def _(facts: Facts, events: Events) -> Events:
    end = _first(_ends(facts, "completed"))
    order = facts.ordered_transitions[-1].order + 1
    again = replace(end, order=order, old="completed", old_worker="")
    return [*events, again, replace(again, order=order + 1, session="")]


@plants("I2", "a running turn expires")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(_ends(facts, "failed")), new="expired")


@plants("I2", "a row was changed by hand")
def _(facts: Facts, events: Events) -> Events:
    rows = [row for row in _rows(facts, "failed") if row.turn not in _readers(facts)]
    busy = _asked(facts)
    return _change(events, _first(r for r in rows if r.turn not in busy), status="expired")


@plants("I2", "a claim was not seen")
def _(facts: Facts, events: Events) -> Events:
    again = (t for t in facts.ordered_transitions if t.new == "running" and t.attempt > 1)
    return _swap(events, _first(again))


@plants("I3", "a turn ends a minute late")
def _(facts: Facts, events: Events) -> Events:
    end = _first(_ends(facts, "completed"))
    return _change(events, end, at=_end_of_time(events) + 60_000 * MS)


@plants("I3", "a turn runs without a lease")
def _(facts: Facts, events: Events) -> Events:
    at = _end_of_time(events) + 60_000 * MS
    return [*events, h.Overdue(at=at, turn="turn-0", lapsed_s=20)]


@plants("I4", "a claim does not raise the attempt")
def _(facts: Facts, events: Events) -> Events:
    again = (t for t in facts.ordered_transitions if t.new == "running" and t.attempt > 1)
    claim = _first(again)
    return _change(events, claim, attempt=claim.old_attempt)


@plants("I4", "a turn is completed as an attempt that nobody claimed")
def _(facts: Facts, events: Events) -> Events:
    end = _first(_ends(facts, "completed"))
    return _change(events, end, attempt=end.attempt + 1)


@plants("I4", "a worker completes another's turn")
def _(facts: Facts, events: Events) -> Events:
    end = _first(_ends(facts, "completed"))
    claims = (t for t in facts.ordered_transitions if t.new == "running")
    other = _first(claim for claim in claims if claim.worker != end.old_worker)
    return _change(events, end, session=other.session)


@plants("I4", "a worker parks another's turn")
def _(facts: Facts, events: Events) -> Events:
    park = _first(t for t in facts.ordered_transitions if t.new == "awaiting_approval")
    claims = (t for t in facts.ordered_transitions if t.new == "running")
    other = _first(claim for claim in claims if claim.worker != park.old_worker)
    return _change(events, park, session=other.session)


@plants("I4", "a commit of an old attempt")
def _(facts: Facts, events: Events) -> Events:
    claims = (t for t in facts.ordered_transitions if t.new == "running" and t.attempt > 1)
    claim = _first(claims)
    return [
        *events,
        h.Commit(
            began=claim.at + 1, at=claim.at + 2, outcome="ok", turn=claim.turn,
            attempt=claim.attempt - 1, status="completed",
        ),
    ]  # fmt: skip


@plants("I5", "a dead attempt is heard")
def _(facts: Facts, events: Events) -> Events:
    newer = _first(a for a in facts.of(h.Append) if a.outcome == "ok" and a.attempt > 1)
    return [*events, replace(newer, at=newer.at + 1, attempt=newer.attempt - 1)]


@plants("I5", "a dead attempt is heard much later")
def _(facts: Facts, events: Events) -> Events:
    newer = _first(a for a in facts.of(h.Append) if a.outcome == "ok" and a.attempt > 1)
    return [*events, replace(newer, at=_end_of_time(events), attempt=1)]


def _require_two_at_once(facts: Facts) -> None:
    running: set[str] = set()
    for change in facts.ordered_transitions:
        if change.limit == 2:
            (running.add if change.new == "running" else running.discard)(change.turn)
            if len(running) == 2:
                return
    raise NoPlaceError


def _of_wide(events: Events, **fields: Any) -> Events:
    return [
        replace(event, **fields) if isinstance(event, h.Transition) and event.limit == 2 else event
        for event in events
    ]


@plants("I6", "two run where one may")
def _(facts: Facts, events: Events) -> Events:
    _require_two_at_once(facts)
    return _of_wide(events, limit=1)


@plants("I6", "two share a slot")
def _(facts: Facts, events: Events) -> Events:
    _require_two_at_once(facts)
    return _of_wide(events, slot=1)


@plants("I6", "a parked turn is passed")
def _(facts: Facts, events: Events) -> Events:
    park = _first(
        t for t in facts.ordered_transitions if t.new == "awaiting_approval" and t.limit == 1
    )
    orders = [replace(e, order=e.order * 10) if isinstance(e, h.Transition) else e for e in events]
    order = park.order * 10
    passing: dict[str, Any] = {"turn": "passing", "old_worker": "", "old_attempt": 0}
    accept = replace(park, old="", new="pending", order=order + 1, attempt=0, **passing)
    claim = replace(
        park, old="pending", new="running", order=order + 2, attempt=1, worker="host-1-aaaa",
        slot=2, **passing,
    )  # fmt: skip
    return [*orders, accept, claim]


@plants("I6", "a turn runs that nobody knows of")
def _(facts: Facts, events: Events) -> Events:
    claims = [t for t in facts.ordered_transitions if t.new == "running" and t.limit == 1]
    claim = _first(claims)
    spread = [replace(e, order=e.order * 10) if isinstance(e, h.Transition) else e for e in events]
    phantom = replace(claim, turn="phantom", order=claim.order * 10 + 5, slot=2)
    accept = replace(phantom, old="", new="pending", order=claim.order * 10 + 4)
    return [*spread, accept, phantom]


@plants("I21", "a worker claims after SIGTERM")
def _(facts: Facts, events: Events) -> Events:
    claim = _first(t for t in facts.ordered_transitions if t.new == "running")
    pid = int(claim.worker.split("-")[1])
    return [*events, h.Signalled(at=claim.at - 2000 * MS, pid=pid, signal="SIGTERM")]


@plants("I21", "a drain costs crash budget")
def _(facts: Facts, events: Events) -> Events:
    lost = _first(t for t in facts.ordered_transitions if t.crash_count > t.old_crash_count)
    pid = int(lost.old_worker.split("-")[1])
    return [*events, h.Signalled(at=lost.at - MS, pid=pid, signal="SIGTERM")]


# -- stream


def _chains(facts: Facts, status: str = "completed") -> list[tuple[list[h.Frame], h.Frame]]:
    """Events of readers of the live log up to an end of that status, and the end."""
    found = []
    for chain in facts.chains:
        frames = [f for c in chain.connections for f in facts.frames.get(c.connection, ())]
        events = [frame for frame in frames if frame.seq]
        is_live = all(frame.seq for frame in frames if frame.type.startswith(("message", "turn.s")))
        if events and is_live and events[-1].status == status:
            found.append((events, events[-1]))
    return found


def _lone_attempt(facts: Facts) -> list[h.Frame]:
    """A reader that saw one attempt, in full, with two deltas at least."""
    return _first(
        events
        for events, _ in _chains(facts)
        if len(events) > 3 and sum(event.type == "turn.started" for event in events) == 1
    )


@plants("I9", "a delta is left out")
def _(facts: Facts, events: Events) -> Events:
    """The reader is cut off before the end, so that its text is nobody's business."""
    frames = _lone_attempt(facts)
    cut = _swap(events, frames[1])
    without_end = _swap(cut, frames[-1])
    end = facts.disconnects[frames[-1].connection]
    return _change(without_end, end, cause="lost")


@plants("I9", "two deltas change places")
def _(facts: Facts, events: Events) -> Events:
    frames = _lone_attempt(facts)
    one, two = frames[1:3]
    first = _change(events, one, seq=two.seq, digest="")
    return _change(first, two, seq=one.seq, digest="")


@plants("I9", "an event comes twice")
def _(facts: Facts, events: Events) -> Events:
    frames = _lone_attempt(facts)
    return _swap(events, frames[1], frames[1], replace(frames[1], text=""))


@plants("I9", "an attempt is not announced")
def _(facts: Facts, events: Events) -> Events:
    frames = _lone_attempt(facts)
    return _swap(events, frames[0])


@plants("I9", "a dead attempt is told after a newer one")
def _(facts: Facts, events: Events) -> Events:
    for frames, _ in _chains(facts):
        for frame in frames:
            if frame.type == "turn.started" and frame.attempt > 1:
                old = replace(frame, type="tool.call", attempt=frame.attempt - 1, seq=9, digest="")
                return _swap(events, frame, frame, old)
    raise NoPlaceError


@plants("I9", "a snapshot, though no log was lost")
def _(facts: Facts, events: Events) -> Events:
    frames = _lone_attempt(facts)
    if facts.fault_before(frames[-1].at):
        raise NoPlaceError
    text = "".join(frame.text for frame in frames)
    snapshot = replace(frames[-2], type="turn.snapshot", seq=0, text=text, digest="")
    return _swap(events, frames[-2], frames[-2], snapshot)


@plants("I9", "a replay is told in pieces")
def _(facts: Facts, events: Events) -> Events:
    whole = (f for f in facts.of(h.Frame) if f.type == "message.delta" and f.seq == 0)
    frame = _first(whole)
    return _swap(
        events, frame, replace(frame, text=frame.text[:2]), replace(frame, text=frame.text[2:])
    )


@plants("I10", "two readers are told two things")
def _(facts: Facts, events: Events) -> Events:
    seen: set[str] = set()
    for frame in facts.of(h.Frame):
        if frame.digest in seen and frame.seq and frame.type == "message.delta":
            return _change(events, frame, digest="something else")
        seen.add(frame.digest)
    raise NoPlaceError


@plants("I10", "what is stored is not what was told")
def _(facts: Facts, events: Events) -> Events:
    frames = _lone_attempt(facts)
    row = facts.final[facts.connections[frames[0].connection].turn]
    return _change(events, row, text=row.text + "more")


@plants("I10", "a dead attempt's text is stored too")
def _(facts: Facts, events: Events) -> Events:
    for frames, end in _chains(facts):
        void = "".join(frame.text for frame in frames if frame.attempt < end.attempt)
        if void:
            row = facts.final[facts.connections[end.connection].turn]
            return _change(events, row, text=void + row.text)
    raise NoPlaceError


@plants("I10", "another end is told than stored")
def _(facts: Facts, events: Events) -> Events:
    busy = _asked(facts)
    for _, end in _chains(facts):
        if facts.connections[end.connection].turn not in busy:
            return _change(events, end, status="failed")
    raise NoPlaceError


@plants("I11", "a delta after the end")
def _(facts: Facts, events: Events) -> Events:
    for _, end in _chains(facts):
        late = replace(end, type="message.delta", seq=end.seq + 1, digest="", status="")
        return _swap(events, end, end, late)
    raise NoPlaceError


@plants("I11", "a second end")
def _(facts: Facts, events: Events) -> Events:
    for _, end in _chains(facts):
        return _swap(events, end, end, end)
    raise NoPlaceError


@plants("I11", "a stream ends without a word")
def _(facts: Facts, events: Events) -> Events:
    return _swap(events, _first(f for f in facts.of(h.Frame) if f.type == "stream.reconnect"))


@plants("I11", "a stream is silent for too long")
def _(facts: Facts, events: Events) -> Events:
    row, at = facts.of(h.FinalState)[0], _end_of_time(events)
    return [
        *events,
        h.Connect(
            began=at, at=at, outcome="ok", tenant=row.tenant, chain="silent", connection="silent",
            turn=row.turn,
        ),
        h.Frame(at=at + 20_000 * MS, connection="silent", type="comment"),
    ]  # fmt: skip


# -- end


@plants("I12", "a cancel is acknowledged, and the turn completes")
def _(facts: Facts, events: Events) -> Events:
    row = _first(_rows(facts, "completed"))
    at = _end_of_time(events)
    return [
        *events,
        h.Cancel(
            began=at, at=at, outcome="ok", tenant=row.tenant, turn=row.turn, status="cancelled"
        ),
    ]


@plants("I12", "a cancel is acknowledged while the turn runs")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(facts.of(h.Cancel)), status="running")


@plants("I12", "a delta after the cancel's answer")
def _(facts: Facts, events: Events) -> Events:
    for cancel in facts.of(h.Cancel):
        late = cancel.at + 1000 * MS
        if cancel.status != "cancelled" or facts.fault_during(cancel.began, late):
            continue
        name = "late"
        connect = h.Connect(
            began=cancel.began - 2, at=cancel.began - 1, outcome="ok", tenant=cancel.tenant,
            chain=name, connection=name, turn=cancel.turn,
        )  # fmt: skip
        start = h.Frame(at=cancel.began, connection=name, type="turn.started", attempt=1, seq=1)
        delta = replace(start, at=late, type="message.delta", seq=2)
        return [*events, connect, start, delta]
    raise NoPlaceError


@plants("I13", "an accepted turn is not found")
def _(facts: Facts, events: Events) -> Events:
    row = facts.of(h.FinalState)[0]
    return [*events, _get(facts, events, row, http=404, status="", digest="not found")]


@plants("I13", "a turn that has ended runs again")
def _(facts: Facts, events: Events) -> Events:
    end = _first(frame for frame in facts.of(h.Frame) if frame.status)
    row = facts.final[facts.connections[end.connection].turn]
    return [*events, _get(facts, events, row, status="running")]


@plants("I13", "an attempt goes back")
def _(facts: Facts, events: Events) -> Events:
    seen = {get.turn for get in facts.of(h.Get) if get.attempt}
    row = _first(row for row in facts.of(h.FinalState) if row.turn in seen)
    return [*events, _get(facts, events, row, attempt=0)]


@plants("I16", "a turn is billed twice")
def _(facts: Facts, events: Events) -> Events:
    return [*events, _first(facts.of(h.Usage))]


@plants("I16", "a completed turn is not billed")
def _(facts: Facts, events: Events) -> Events:
    return _swap(events, _first(facts.of(h.Usage)))


@plants("I16", "an answer is written twice")
def _(facts: Facts, events: Events) -> Events:
    row = facts.of(h.FinalState)[0]
    return _change(events, row, answer_commits=row.parked_count + 2)


@plants("I16", "a question is written twice")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, facts.of(h.FinalState)[0], questions=2)


@plants("I16", "a retry has another webhook id")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, facts.of(h.Delivery)[1], webhook_id="another")


@plants("I17", "a webhook is never taken")
def _(facts: Facts, events: Events) -> Events:
    taken = _first(d for d in facts.of(h.Delivery) if d.http == 200)
    return _change(events, taken, http=500)


@plants("I17", "a webhook is signed wrongly")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, facts.of(h.Delivery)[0], is_signed=False)


# -- whole


@plants("I14", "a stream carries another tenant's text")
def _(facts: Facts, events: Events) -> Events:
    frame = _first(f for f in facts.of(h.Frame) if f.owner)
    return _change(events, frame, owner="tenant-c")


@plants("I14", "an answer carries another tenant's text")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(g for g in facts.of(h.Get) if g.owner), owner="tenant-c")


@plants("I14", "another tenant's turn is shown")
def _(facts: Facts, events: Events) -> Events:
    row = facts.of(h.FinalState)[0]
    return [*events, _get(facts, events, row, tenant="tenant-c")]


@plants("I14", "another tenant's turn looks different from none")
def _(facts: Facts, events: Events) -> Events:
    known = facts.owner
    foreign = _first(g for g in facts.of(h.Get) if g.http == 404 and g.turn in known)
    return _change(events, foreign, digest="not yours")


@plants("I15", "a reply goes to who did not ask")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(facts.of(h.Reply)), told="other")


@plants("I22", "a stream is left open")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(facts.of(h.Residue)), found=1)


@plants("I23", "a revoked credential is served")
def _(facts: Facts, events: Events) -> Events:
    return _change(events, _first(g for g in facts.of(h.Get) if g.http == 401), http=404)


@plants("I23", "a stream outlives its credential")
def _(facts: Facts, events: Events) -> Events:
    revoke = _first(facts.of(h.Revoke))
    row, at = facts.of(h.FinalState)[0], revoke.at
    connect = h.Connect(
        began=at - 2, at=at - 1, outcome="ok", tenant=row.tenant, chain="open", connection="open",
        turn=row.turn, credential=revoke.credential,
    )  # fmt: skip
    return [*events, connect, h.Frame(at=at + 6000 * MS, connection="open", type="comment")]


def main() -> int:
    score = mutation_score()
    print(score)
    return 0 if score.caught == score.planted else 1


if __name__ == "__main__":
    sys.exit(main())
