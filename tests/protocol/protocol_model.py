"""Every interleaving of one turn, two workers, a cancel, a reaper and a Redis that forgets.

A breadth-first search over explicit states; no tool needed. Postgres is one compare-and-set cell,
Redis one log header and a generation token. A pause, a slow network or a wrong clock is any action
that comes arbitrarily late, and a lease may be judged lapsed at any moment.

What is searched for (`Violation`): a second terminal commit; an append of an older attempt behind a
newer one; an append behind the log's end; an append after the cancel was acknowledged.

The log is lost and *rewritten*: our writer keeps all events of its attempt and, after a loss,
opens the log again with its first event instead of with a snapshot. For safety the two are the
same action. What the search looks at is who may write (attempt, closed, generation), never what;
both forms pass the same `open` under the same checks, and ordinary appends of the same attempt
follow. What a rewrite adds is only that events a reader has seen are published again, under their
old places. The model carries this as `written` and `read`: a rewrite starts the attempt's count
again at 1, the log of one attempt grows by one, and a reader that takes what is above its cursor
never sees a place twice nor out of order (`Violation.REPEATED_PLACE` would prove the contrary).
A snapshot would need a place of its own; a rewrite does not.

Two more habits of ours. A log of another generation counts as absent when a log is opened (FULL).
And a worker whose commit has succeeded publishes the end, after a loss with everything before it,
without asking Postgres again: `publish_end` is that step, and it needs no second question because
a terminal status is written once, so nobody else can ever own the turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Fencing(Enum):
    """How much of the protocol is in force."""

    NONE = "no fencing: whoever calls may write and commit"
    ATTEMPT = "compare-and-set in Postgres, attempt checked in Redis"
    GENERATION = "and opening needs the generation read before Postgres validated the attempt"
    FULL = "and each append needs it too, and a restart or promotion of Redis drops it"


class Violation(Enum):
    TWO_ENDS = "two terminal commits"
    OLD_AFTER_NEW = "an append of an older attempt behind a newer one"
    AFTER_END = "an append behind the log's end"
    AFTER_CANCEL = "an append after the cancel was acknowledged"
    REPEATED_PLACE = "a reader is handed a place that is not the next one"


class Phase(Enum):
    """Where a worker stands."""

    IDLE = 0
    VALIDATED = 1
    """Holds a generation, and Postgres confirmed the attempt after that: may open."""
    OPEN = 2
    """Believes that its log is open: appends, then commits."""
    MUST_READ = 3
    """Its log is lost: reads the generation next."""
    MUST_VALIDATE = 4
    """Has read the generation: asks Postgres next."""


class Stored(Enum):
    """The turn's status in Postgres, as far as the protocol sees it."""

    PENDING = 0
    RUNNING = 1
    COMPLETED = 2
    CANCELLED = 3


class Worker(NamedTuple):
    phase: Phase = Phase.IDLE
    attempt: int = 0
    generation: int = 0


class Log(NamedTuple):
    """What Redis knows of the turn. `written` counts the events of the attempt."""

    attempt: int
    closed: bool
    generation: int
    written: int = 0


class State(NamedTuple):
    status: Stored = Stored.PENDING
    attempt: int = 0
    ends: int = 0
    log: Log | None = None
    generation: int = 1
    """0 = Redis has none."""
    newest_generation: int = 1
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    flushes: int = 0
    newest_append: int = 0
    end_published: bool = False
    acknowledged: bool = False
    saved: tuple[Log | None, int] | None = None
    """An older state of Redis (log, generation) that a rollback may bring back."""
    rolled_back: bool = False
    read: tuple[int, int] = (0, 0)
    """Cursor of one reader that takes every publication above it."""


@dataclass(frozen=True)
class Bounds:
    attempts: int = 4
    flushes: int = 2
    events: int = 0
    """Events of one attempt that are counted; 0 = places are left out of the state."""
    rollback: bool = False


class Step(NamedTuple):
    action: str
    state: State
    violation: Violation | None = None


@dataclass
class Result:
    states: int
    transitions: int
    traces: dict[Violation, list[str]]
    """The shortest way to each violation that was found."""


def search(fencing: Fencing, bounds: Bounds) -> Result:
    """Visits every reachable state once."""
    model = _Model(fencing, bounds)
    first = State()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    traces: dict[Violation, list[str]] = {}
    transitions = 0
    while waiting:
        state = waiting.popleft()
        for action, following, violation in model.steps(state):
            transitions += 1
            if violation is not None and violation not in traces:
                traces[violation] = [*_path(came_from, state), action]
            if following not in came_from:
                came_from[following] = (state, action)
                waiting.append(following)
    return Result(len(came_from), transitions, traces)


def _path(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    actions: list[str] = []
    while (origin := came_from[state]) is not None:
        state, action = origin
        actions.append(action)
    return actions[::-1]


class _Model:
    """One generator per actor, one method per action with more than a line to say."""

    def __init__(self, fencing: Fencing, bounds: Bounds) -> None:
        self.bounds = bounds
        self.is_fenced = fencing is not Fencing.NONE
        self.has_generation = fencing in {Fencing.GENERATION, Fencing.FULL}
        self.is_full = fencing is Fencing.FULL

    def steps(self, s: State) -> Iterator[Step]:
        yield from self.postgres_steps(s)
        yield from self.redis_steps(s)
        yield from self.canceller_steps(s)
        for number in (0, 1):
            yield from self.worker_steps(s, number)

    # -- faults and helpers around the workers

    def postgres_steps(self, s: State) -> Iterator[Step]:
        if s.status is Stored.RUNNING:
            yield Step("reap", s._replace(status=Stored.PENDING))

    def redis_steps(self, s: State) -> Iterator[Step]:
        if s.flushes < self.bounds.flushes:
            yield Step("flush", s._replace(log=None, generation=0, flushes=s.flushes + 1))
        if s.generation == 0:
            fresh = s.newest_generation + 1
            yield Step("rebuild", s._replace(generation=fresh, newest_generation=fresh))
        if self.bounds.rollback and not s.rolled_back:
            if s.saved is None and s.log is not None:
                yield Step("save", s._replace(saved=(s.log, s.generation)))
            elif s.saved is not None:
                yield self.roll_back(s, *s.saved)

    def roll_back(self, s: State, log: Log | None, generation: int) -> Step:
        kept = 0 if self.is_full else generation
        back = s._replace(log=log, generation=kept, saved=None, rolled_back=True)
        return Step("rollback", back)

    def canceller_steps(self, s: State) -> Iterator[Step]:
        is_active = s.status in {Stored.PENDING, Stored.RUNNING}
        if is_active and s.attempt < self.bounds.attempts:
            yield Step(
                "cancel",
                s._replace(status=Stored.CANCELLED, attempt=s.attempt + 1, ends=s.ends + 1),
            )
        if not is_active and not s.end_published and (s.generation or not self.has_generation):
            owner = max(s.attempt, s.log.attempt if s.log else 0)
            closed = Log(owner, closed=True, generation=s.generation)
            yield Step("publish_end", s._replace(log=closed, end_published=True))
        if s.status is Stored.CANCELLED and s.end_published and not s.acknowledged:
            yield Step("acknowledge_cancel", s._replace(acknowledged=True))

    # -- a worker

    def worker_steps(self, s: State, number: int) -> Iterator[Step]:
        me = s.workers[number]
        name = f"worker{number}."
        match me.phase:
            case Phase.IDLE:
                yield from self.claim(s, number, name)
            case Phase.VALIDATED:
                yield self.open(s, number, name)
            case Phase.MUST_READ:
                if s.generation:
                    read = _becomes(s, number, Phase.MUST_VALIDATE, me.attempt, s.generation)
                    yield Step(name + "read_generation", read)
            case Phase.MUST_VALIDATE:
                if self.owns(s, me):
                    valid = _becomes(s, number, Phase.VALIDATED, me.attempt, me.generation)
                    yield Step(name + "validate", valid)
                else:
                    yield Step(name + "found_fenced", _becomes(s, number, Phase.IDLE))
            case Phase.OPEN:
                yield self.append(s, number, name)
                yield self.commit(s, number, name)

    def claim(self, s: State, number: int, name: str) -> Iterator[Step]:
        if s.status is Stored.PENDING and s.attempt < self.bounds.attempts:
            attempt = s.attempt + 1
            claimed = s._replace(status=Stored.RUNNING, attempt=attempt)
            # The generation was read before: by the same script that handed out the turn.
            holds = _becomes(claimed, number, Phase.VALIDATED, attempt, s.generation)
            yield Step(name + "claim", holds)

    def open(self, s: State, number: int, name: str) -> Step:
        me = s.workers[number]
        if self.may_open(s, me):
            opened = _becomes(s, number, Phase.OPEN, me.attempt, me.generation)
            return Step(name + "open", opened._replace(log=self.opened_log(s, me)))
        if self.is_lost(s, me):
            return Step(name + "told_stale", _becomes(s, number, Phase.MUST_READ, me.attempt))
        return Step(name + "told_fenced", _becomes(s, number, Phase.IDLE))

    def owns(self, s: State, me: Worker) -> bool:
        return s.status is Stored.RUNNING and s.attempt == me.attempt

    def may_open(self, s: State, me: Worker) -> bool:
        if not self.is_fenced:
            return True
        if self.has_generation and not (s.generation and s.generation == me.generation):
            return False
        if s.log is None or (self.is_full and s.log.generation != s.generation):
            return True
        return s.log.attempt <= me.attempt and not s.log.closed

    def is_lost(self, s: State, me: Worker) -> bool:
        """Whether the refusal to open says "read again" and not "fenced"."""
        if not self.has_generation or s.generation == me.generation:
            return False
        return self.is_full or (
            bool(s.generation) and (s.log is None or s.log.attempt <= me.attempt)
        )

    def opened_log(self, s: State, me: Worker) -> Log:
        if not self.is_fenced and s.log is not None:
            return s.log
        return Log(me.attempt, closed=False, generation=s.generation)

    def append(self, s: State, number: int, name: str) -> Step:
        me = s.workers[number]
        answer = self.answer_append(s, me)
        if answer == "lost":
            following = Phase.MUST_READ if self.has_generation else Phase.MUST_VALIDATE
            return Step(name + "told_lost", _becomes(s, number, following, me.attempt))
        if answer == "fenced":
            return Step(name + "told_fenced", _becomes(s, number, Phase.IDLE))
        violation = None
        if me.attempt < s.newest_append:
            violation = Violation.OLD_AFTER_NEW
        elif s.end_published:
            violation = Violation.AFTER_END
        elif s.acknowledged:
            violation = Violation.AFTER_CANCEL
        written = s._replace(newest_append=max(s.newest_append, me.attempt))
        if self.bounds.events and violation is None and s.log is not None:
            written, violation = self.publish(written, s.log, me)
        return Step(name + "append", written, violation)

    def answer_append(self, s: State, me: Worker) -> str:
        if not self.is_fenced:
            return "ok"
        if s.log is None or (self.is_full and s.log.generation != s.generation):
            return "lost"
        if self.is_full and not s.generation:
            return "lost"
        return "ok" if (s.log.attempt, s.log.closed) == (me.attempt, False) else "fenced"

    def publish(self, s: State, log: Log, me: Worker) -> tuple[State, Violation | None]:
        """The next event of the attempt reaches the log and the reader."""
        place = min(log.written + 1, self.bounds.events)
        s = s._replace(log=log._replace(written=place))
        if (me.attempt, place) <= s.read:
            return s, None
        is_next = place == (s.read[1] + 1 if me.attempt == s.read[0] else 1)
        violation = None if is_next or me.attempt > s.read[0] else Violation.REPEATED_PLACE
        return s._replace(read=(me.attempt, place)), violation

    def commit(self, s: State, number: int, name: str) -> Step:
        idle = _becomes(s, number, Phase.IDLE)
        if self.is_fenced and not self.owns(s, s.workers[number]):
            return Step(name + "commit_refused", idle)
        ended = idle._replace(status=Stored.COMPLETED, ends=s.ends + 1)
        return Step(name + "commit", ended, Violation.TWO_ENDS if s.ends else None)


def _becomes(s: State, number: int, phase: Phase, attempt: int = 0, generation: int = 0) -> State:
    changed = list(s.workers)
    changed[number] = Worker(phase, attempt, generation)
    return s._replace(workers=(changed[0], changed[1]))
