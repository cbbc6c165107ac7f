"""A history put in order once: by kind, by turn, by chain of connections. All checks read this."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, TypeVar

from shared.turn.state import TERMINAL, TurnStatus
from tests.chaos.history import (
    Accept,
    Connect,
    Disconnect,
    Event,
    FaultBegun,
    FaultHealed,
    FinalState,
    Frame,
    HistoryError,
    Revoke,
    Transition,
)

E = TypeVar("E")
NS: Final = 1_000_000_000
NEVER: Final = 1 << 62
TERMINAL_STATUSES: Final = frozenset(str(status) for status in TERMINAL)
RUNNING: Final = str(TurnStatus.RUNNING)
PARKED: Final = str(TurnStatus.AWAITING_APPROVAL)
PENDING: Final = str(TurnStatus.PENDING)
COMPLETED: Final = str(TurnStatus.COMPLETED)
FAILED: Final = str(TurnStatus.FAILED)
CANCELLED: Final = str(TurnStatus.CANCELLED)
MOST_KEPT: Final = 50
"""Violations of one invariant that are told; all are counted."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the product under test is allowed. Seconds."""

    settle_s: float = 30.0
    """From the last heal, or the last accept, until every turn has ended."""
    lease_s: float = 8.0
    keep_alive_s: float = 15.0
    silence_grace_s: float = 2.0
    revoked_within_s: float = 5.0
    cancel_grace_s: float = 0.25
    """How much later than a cancel's answer a reader may have read what was sent before it."""
    drain_grace_s: float = 1.0
    """A claim may be under way when SIGTERM arrives."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`at` and `turn` find the event in the history."""

    invariant: str
    at: int
    turn: str
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at}: {self.turn or '-'}: {self.message}"


@dataclass(slots=True)
class Verdict:
    """What one check looked at and found."""

    invariant: str
    title: str
    checked: int = 0
    count: int = 0
    violations: list[Violation] = field(default_factory=list)
    """The first `MOST_KEPT` of `count`."""

    def violate(self, at: int, turn: str, message: str) -> None:
        self.count += 1
        if len(self.violations) < MOST_KEPT:
            self.violations.append(Violation(self.invariant, at, turn, message))

    @property
    def word(self) -> str:
        """ok, violated, or not exercised: a check of nothing proves nothing."""
        if self.count:
            return "violated"
        return "ok" if self.checked else "not exercised"


@dataclass(slots=True)
class Chain:
    """One reader: its connections in order, and each one's frames and end."""

    name: str
    turn: str
    tenant: str
    connections: list[Connect] = field(default_factory=list)


class Facts:
    """Every list is in the order of `at`; events of one moment keep the order of their file.

    Raises:
        HistoryError: a frame of a connection that nobody opened.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._of: dict[type, list[Any]] = defaultdict(list)
        for event in events:
            self._of[type(event)].append(event)
        for same in self._of.values():
            same.sort(key=attrgetter("at"))
        self._times_of_layers: dict[frozenset[str] | None, tuple[list[int], list[int]]] = {}
        for name in self.frames:
            if name not in self.connections:
                raise HistoryError(f"frames of connection {name!r}, which no Connect names")

    def of(self, kind: type[E]) -> list[E]:
        """All events of a kind."""
        return self._of.get(kind, [])

    # -- turns

    @cached_property
    def accepted(self) -> dict[str, Accept]:
        """The first definite accept of each turn."""
        first: dict[str, Accept] = {}
        for accept in self.of(Accept):
            if accept.outcome == "ok":
                first.setdefault(accept.turn, accept)
        return first

    @cached_property
    def finals(self) -> dict[str, list[FinalState]]:
        """Rows of each turn."""
        return grouped(self.of(FinalState), "turn")

    @cached_property
    def final(self) -> dict[str, FinalState]:
        """The row of each turn that has one."""
        return {turn: rows[0] for turn, rows in self.finals.items()}

    @cached_property
    def owner(self) -> dict[str, str]:
        """The tenant of each turn."""
        owners = {row.turn: row.tenant for row in self.of(Transition)}
        owners |= {turn: row.tenant for turn, row in self.final.items()}
        return owners | {turn: accept.tenant for turn, accept in self.accepted.items()}

    @cached_property
    def ordered_transitions(self) -> list[Transition]:
        """In the order Postgres made them."""
        return sorted(self.of(Transition), key=attrgetter("order"))

    @cached_property
    def transitions(self) -> dict[str, list[Transition]]:
        """Of each turn, in the order Postgres made them."""
        return grouped(self.ordered_transitions, "turn")

    # -- streams

    @cached_property
    def chains(self) -> list[Chain]:
        """Every reader."""
        chains: dict[str, Chain] = {}
        for connect in sorted(self.of(Connect), key=attrgetter("began")):
            name = connect.chain
            chain = chains.get(name)
            if chain is None:
                chain = chains[name] = Chain(name, connect.turn, connect.tenant)
            chain.connections.append(connect)
        return list(chains.values())

    @cached_property
    def connections(self) -> dict[str, Connect]:
        return {connect.connection: connect for connect in self.of(Connect)}

    @cached_property
    def frames(self) -> dict[str, list[Frame]]:
        """Of each connection."""
        return grouped(self.of(Frame), "connection")

    @cached_property
    def disconnects(self) -> dict[str, Disconnect]:
        return {end.connection: end for end in self.of(Disconnect)}

    @cached_property
    def revoked_at(self) -> dict[str, Revoke]:
        """The first definite revocation of each credential."""
        first: dict[str, Revoke] = {}
        for revoke in self.of(Revoke):
            if revoke.outcome == "ok":
                first.setdefault(revoke.credential, revoke)
        return first

    # -- faults

    @cached_property
    def faults(self) -> list[tuple[int, int, str]]:
        """(began, healed, layer), by begin; `NEVER` when it was not healed."""
        healed = {heal.fault: heal.at for heal in self.of(FaultHealed)}
        return [
            (fault.at, healed.get(fault.fault, NEVER), fault.layer) for fault in self.of(FaultBegun)
        ]

    def _fault_times(self, layers: frozenset[str] | None) -> tuple[list[int], list[int]]:
        """When each fault began, by begin, and the latest heal of all that had begun by then."""
        known = self._times_of_layers.get(layers)
        if known is None:
            faults = [f for f in self.faults if layers is None or f[2] in layers]
            heals = itertools.accumulate((healed for _, healed, _ in faults), max)
            known = ([began for began, _, _ in faults], list(heals))
            self._times_of_layers[layers] = known
        return known

    def fault_before(self, at: int) -> bool:
        """Whether any fault had begun by then."""
        return bool(self.faults) and self.faults[0][0] <= at

    def fault_during(self, since: int, until: int, layers: frozenset[str] | None = None) -> bool:
        """Whether a fault (of one of `layers`) was there at some moment between the two."""
        begun, latest_heal = self._fault_times(layers)
        known = bisect.bisect_right(begun, until)
        return known > 0 and latest_heal[known - 1] >= since


def grouped(events: Iterable[E], name: str) -> dict[str, list[E]]:
    """Events by one of their fields, order kept."""
    groups: dict[str, list[E]] = {}
    key = attrgetter(name)
    for event in events:
        value = key(event)
        group = groups.get(value)
        if group is None:
            groups[value] = [event]
        else:
            group.append(event)
    return groups


def parse_cursor(text: str) -> tuple[int, int]:
    """Attempt and seq of `attempt-seq`."""
    attempt, _, seq = text.partition("-")
    return int(attempt), int(seq)
