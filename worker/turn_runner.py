"""Runs one claimed turn, top to bottom: prepare → drive the engine → commit → publish → release.

Postgres is written first and decides; Redis hears of it afterwards. A turn that lost its attempt
writes nothing at all. The first two steps are `Drive`, the third is `TurnCommits`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import structlog

from shared.errors import RedisUnavailable, TurnFailed
from shared.metrics import Metrics
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.settings import Settings
from shared.turn.events import AwaitingApproval, OpenCall, TurnEnded
from shared.turn.model import ClaimedTurn
from shared.turn.state import TurnStatus
from worker.approvals import MOST_APPROVAL_ROUNDS
from worker.engine.base import EngineResult
from worker.event_writer import EventWriter, TurnLog
from worker.held_turns import HeldTurn, StopReason
from worker.turn_commits import Ending, Parked, TurnCommits
from worker.turn_drive import Drive
from worker.turn_preparer import TurnPreparer

log = structlog.get_logger(__name__)

FLUSH_TIMEOUT_S: Final = 5.0


class TurnRunner:
    """Runs held turns. `run` never raises for what a turn or a model does."""

    def __init__(
        self,
        *,
        preparer: TurnPreparer,
        commits: TurnCommits,
        dispatch: Dispatch,
        writer: EventWriter,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._preparer = preparer
        self._commits = commits
        self._dispatch = dispatch
        self._writer = writer
        self._metrics = metrics
        self._settings = settings

    async def run(self, held: HeldTurn) -> None:
        """Runs a turn to its end, or until it is stopped; releases what it held in Redis."""
        turn = held.turn
        turn_log = self._writer.open(
            turn.id, turn.attempt, held.generation, lambda: held.stop(StopReason.FENCED)
        )
        drive = Drive(turn, turn_log, self._preparer, self._settings, self._metrics)
        task = asyncio.create_task(drive.run())
        held.attach(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            self._writer.forget(turn_log)
            raise
        ending = _judge(held, task)
        if ending is None:
            self._writer.forget(turn_log)
            return
        ended: Ending | None
        ended, result = _with_result(turn, ending, drive)
        if result.asked and ended.status is TurnStatus.COMPLETED:
            if turn.parked_count < MOST_APPROVAL_ROUNDS:
                ended = await self._park(held, turn_log, result)
            else:
                ended = Ending(TurnStatus.FAILED, _asks_too_often())
        if ended is not None:
            await self._end(held, turn_log, ended, result)

    # -- park

    async def _park(self, held: HeldTurn, turn_log: TurnLog, result: EngineResult) -> Ending | None:
        """Puts the turn away until its tool calls are decided; how it ends if it cannot be."""
        held.is_ending = True
        outcome = await self._commits.park(held, result, turn_log.last_seq + 1)
        if isinstance(outcome, Ending):
            return outcome
        await self._publish_parking(held.turn, turn_log, result, outcome)
        return None

    async def _publish_parking(
        self, turn: ClaimedTurn, turn_log: TurnLog, result: EngineResult, parked: Parked
    ) -> None:
        calls = [OpenCall(tool_call_id=c.tool_call_id, name=c.name) for c in result.asked]
        try:
            turn_log.append(AwaitingApproval(actions=calls, expires_at=parked.expires_at))
        except TurnFailed:
            log.warning("turn.parking_unpublished", turn_id=str(turn.id))  # the log is full
        self._writer.flush(turn_log)
        await self._flush_rest(turn_log)
        self._metrics.approvals.labels(what="asked").inc(len(calls))
        log.info("turn.parked", turn_id=str(turn.id), attempt=turn.attempt, tool_calls=len(calls))

    # -- end

    async def _end(
        self, held: HeldTurn, turn_log: TurnLog, ending: Ending, result: EngineResult
    ) -> None:
        turn = held.turn
        held.is_ending = True
        ended = await self._commits.end(held, ending, result, turn_log.last_seq + 1)
        if ended is None:
            self._metrics.fenced_commits.inc()
            log.info("turn.commit_refused", turn_id=str(turn.id), attempt=turn.attempt)
            self._writer.forget(turn_log)
            return
        turn_log.append(ended, final=True)
        await self._publish(turn_log, turn)
        self._report(turn, ended)

    async def _publish(self, turn_log: TurnLog, turn: ClaimedTurn) -> None:
        change = LineChange.of_ended(turn)
        # Usually both leave in one write, the end before the slot.
        released = self._dispatch.send_settle(change) if self._writer.flush(turn_log) else None
        await self._flush_rest(turn_log)
        try:
            if not await _succeeded(released):
                await self._dispatch.settle(change)
        except (RedisUnavailable, RedisReplyError) as error:
            log.warning("turn.slot_unreleased", turn_id=str(turn.id), error=str(error))

    async def _flush_rest(self, turn_log: TurnLog) -> None:
        if not turn_log.flushed.is_set():
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await turn_log.flushed.wait()
            except TimeoutError:
                # Readers learn it from Postgres.
                log.warning("turn.end_unpublished", turn_id=str(turn_log.turn_id))
        self._writer.forget(turn_log)

    def _report(self, turn: ClaimedTurn, ended: TurnEnded) -> None:
        self._metrics.turns_ended.labels(status=ended.status).inc()
        log.info(
            "turn.ended",
            turn_id=str(turn.id),
            thread_id=str(turn.thread_id),
            status=str(ended.status),
            model_id=turn.model_id,
            attempt=turn.attempt,
            duration_s=ended.duration_s,
            output_tokens=ended.usage.output_tokens if ended.usage else 0,
            error_code=ended.error.code if ended.error else None,
        )


def _asks_too_often() -> TurnFailed:
    message = f"The model asked for approvals {MOST_APPROVAL_ROUNDS} times and still wants more"
    return TurnFailed("approval_limit", message)


async def _succeeded(reply: asyncio.Future[Any] | None) -> bool:
    """Whether a command was sent and Redis has obeyed; else it is to be sent again."""
    if reply is None:
        return False
    try:
        await reply
    except (RedisUnavailable, RedisReplyError):
        return False
    return True


def _judge(held: HeldTurn, task: asyncio.Task[None]) -> Ending | None:
    """What the drive's end means; None when this worker has no more say in the turn."""
    error = None if task.cancelled() else task.exception()
    if held.stop_reason is StopReason.CANCEL:
        return Ending(TurnStatus.CANCELLED)
    if held.stop_reason is not None:
        return None
    if error is None and not task.cancelled():
        return Ending(TurnStatus.COMPLETED)
    if isinstance(error, TurnFailed):
        return Ending(TurnStatus.FAILED, error)
    # A defect of ours, or an engine that cancelled itself: the turn must still end.
    log.critical("turn.defect", turn_id=str(held.turn.id), exc_info=error)
    return Ending(TurnStatus.FAILED, TurnFailed("internal", "The turn failed unexpectedly"))


def _with_result(turn: ClaimedTurn, ending: Ending, drive: Drive) -> tuple[Ending, EngineResult]:
    """The ending and what was produced until then; the turn ends also where that cannot be told."""
    try:
        result = drive.result()
    except Exception:  # the outermost boundary of an engine
        log.critical("turn.defect", turn_id=str(turn.id), exc_info=True)
        ending, result = ending.without_messages(), EngineResult()
    if turn.earlier_usage is not None:
        result = replace(result, usage=result.usage + turn.earlier_usage)
    return ending, result
