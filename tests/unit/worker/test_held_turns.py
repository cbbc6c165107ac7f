"""What a process holds, and which reason to stop wins."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from shared.turn.model import ClaimedTurn
from worker.held_turns import HeldTurn, HeldTurns, StopReason


def held(turn: int = 1, attempt: int = 1) -> HeldTurn:
    nobody = UUID(int=0)
    claimed = ClaimedTurn(
        UUID(int=turn), nobody, nobody, nobody, attempt, 1, 0, "key", 1, "scripted", {}, None,
        "hi", nobody, False, False, nobody,
    )  # fmt: skip
    return HeldTurn(claimed, "generation")


@pytest.mark.parametrize(
    ("reasons", "stands"),
    [
        ([StopReason.CANCEL, StopReason.HAND_BACK], StopReason.CANCEL),
        ([StopReason.HAND_BACK, StopReason.CANCEL], StopReason.HAND_BACK),
        ([StopReason.CANCEL, StopReason.FENCED], StopReason.FENCED),
        ([StopReason.FENCED, StopReason.CANCEL], StopReason.FENCED),
    ],
)
def test_the_first_reason_stands_but_fencing_overrules(
    reasons: list[StopReason], stands: StopReason
) -> None:
    turn = held()
    for reason in reasons:
        turn.stop(reason)
    assert turn.stop_reason is stands


def test_only_fencing_stops_an_outcome_that_is_being_committed() -> None:
    turn = held()
    turn.is_ending = True
    turn.stop(StopReason.CANCEL)
    assert turn.stop_reason is None
    turn.stop(StopReason.FENCED)
    assert turn.stop_reason is StopReason.FENCED


async def test_a_stop_before_the_drive_is_known_reaches_it() -> None:
    turn = held()
    turn.stop(StopReason.CANCEL)
    drive = asyncio.create_task(asyncio.sleep(60))
    turn.attach(drive)
    await asyncio.wait([drive])
    assert drive.cancelled()


async def test_telling_it_again_does_not_disturb_the_clean_up() -> None:
    turn = held()
    cleaned_up = asyncio.Event()

    async def drive() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned_up.set()

    task = asyncio.create_task(drive())
    await asyncio.sleep(0)
    turn.attach(task)
    turn.stop(StopReason.CANCEL)
    await asyncio.sleep(0)
    turn.stop(StopReason.CANCEL)
    turn.stop(StopReason.FENCED)
    await asyncio.wait([task])
    assert cleaned_up.is_set()


def test_a_newer_attempt_fences_the_older_and_outlives_its_removal() -> None:
    turns = HeldTurns()
    old, new = held(attempt=1), held(attempt=2)
    turns.add(old)
    turns.add(new)
    assert old.stop_reason is StopReason.FENCED
    turns.remove(old)
    assert turns.get(new.turn.id) is new
    turns.remove(new)
    assert len(turns) == 0
    assert turns.changed.is_set()
