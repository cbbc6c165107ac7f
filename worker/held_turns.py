"""The turns this process holds: claimed, leased, not yet ended. For runner, lease and drain."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from uuid import UUID

from shared.turn.model import ClaimedTurn


class StopReason(StrEnum):
    """Why a turn that still runs must stop here."""

    CANCEL = "cancel"
    """Somebody asked for it: keep the partial text."""
    FENCED = "fenced"
    """Another attempt owns the turn: write nothing more."""
    HAND_BACK = "hand_back"
    """This process drains: another worker goes on."""


class HeldTurn:
    """One claimed turn under its attempt."""

    def __init__(self, turn: ClaimedTurn, generation: str | None) -> None:
        self.turn = turn
        self.generation = generation
        self.stop_reason: StopReason | None = None
        self.is_ending = False
        """The outcome is decided and being committed; a stop comes too late."""
        self._drive: asyncio.Task[None] | None = None

    def attach(self, drive: asyncio.Task[None]) -> None:
        """Names the task that a stop must cancel."""
        self._drive = drive
        if self.stop_reason is not None:
            drive.cancel()

    def stop(self, reason: StopReason) -> None:
        """Stops the turn; the first reason stands, but being fenced overrules."""
        if self.is_ending and reason is not StopReason.FENCED:
            return
        is_first = self.stop_reason is None
        if is_first or reason is StopReason.FENCED:
            self.stop_reason = reason
        if is_first and self._drive is not None:
            self._drive.cancel()  # once: a second one would cut the engine's own clean-up short


class HeldTurns:
    """Held turns by id, with a signal when one of them goes."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, HeldTurn] = {}
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, held: HeldTurn) -> None:
        """Takes a turn in. An older attempt of the same turn is fenced by that."""
        older = self._by_id.get(held.turn.id)
        if older is not None:
            older.stop(StopReason.FENCED)
        self._by_id[held.turn.id] = held

    def remove(self, held: HeldTurn) -> None:
        """Lets a turn go."""
        if self._by_id.get(held.turn.id) is held:
            del self._by_id[held.turn.id]
        self.changed.set()

    def get(self, turn_id: UUID) -> HeldTurn | None:
        return self._by_id.get(turn_id)

    def all(self) -> list[HeldTurn]:
        return list(self._by_id.values())
