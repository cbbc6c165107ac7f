"""Runs one claimed turn, top to bottom: prepare → drive the engine → commit → publish → release.

Postgres is written first and decides; Redis hears of it afterwards. A turn that lost its attempt
writes nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, assert_never

import asyncpg
import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable, TurnFailed
from shared.ids import new_id
from shared.metrics import Metrics
from shared.postgres.group_commit import GroupCommit
from shared.postgres.histories import Histories
from shared.postgres.pool import Database
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.settings import Settings
from shared.turn.attached import AttachedText
from shared.turn.events import (
    AwaitingApproval,
    MessageDelta,
    OpenCall,
    ReasoningDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnStarted,
    Usage,
)
from shared.turn.messages import preview
from shared.turn.model import ClaimedTurn, duration_s
from shared.turn.retell import retell
from shared.turn.state import TurnStatus
from shared.turn.text import storable, storable_json
from worker import detached
from worker.approvals import (
    MOST_APPROVAL_ROUNDS,
    RecordedRun,
    park_arguments,
    read_resumption,
)
from worker.attachment_reader import TEXTS_AT_ONCE, AttachmentReader
from worker.attachments import as_instructions, count_tokens, read_attached
from worker.context import ContextReader, TurnContext
from worker.engine.base import (
    EngineEvent,
    EngineMessage,
    EngineRequest,
    EngineResult,
    EngineRun,
    Resumption,
)
from worker.engine.registry import Engines
from worker.event_writer import EventWriter, TurnLog
from worker.held_turns import HeldTurn, StopReason
from worker.history import BYTES_PER_TOKEN, budget_for, history_window
from worker.mcp_client.servers import McpOffer, McpServers
from worker.tools.base import ToolContext
from worker.tools.shares import TenantShares

if TYPE_CHECKING:
    from shared.outbound.client import GuardedClient

log = structlog.get_logger(__name__)

COMMIT_RETRY_S: Final = 0.5
FLUSH_TIMEOUT_S: Final = 5.0
NO_MCP: Final = McpOffer()
_DEADLINE_STEP_S: Final = 0.5
_DELTAS: Final = (MessageDelta, ReasoningDelta)
_STORED_SIZE_MARGIN: Final = 4
"""A message is stored with more about it than the token budget counts: ids, times, signatures."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the drive of an attempt ended, before it is committed."""

    status: TurnStatus
    error: TurnFailed | None = None


class TurnRunner:
    """Runs held turns. `run` never raises for what a turn or a model does."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        writer: EventWriter,
        engines: Engines,
        metrics: Metrics,
        settings: Settings,
        on_file_awaited: Callable[[], None],
        mcp: McpServers,
        outbound: GuardedClient | None = None,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._writer = writer
        self._engines = engines
        self._metrics = metrics
        self._settings = settings
        self._on_file_awaited = on_file_awaited
        self._mcp = mcp
        self._outbound = outbound
        self._attached_seats = asyncio.Semaphore(TEXTS_AT_ONCE)
        self._outbound_shares = TenantShares(settings.tool_http_requests_per_tenant)
        self._contexts = ContextReader(database, http_allowed=outbound is not None)
        self._endings = GroupCommit(database, "end_turns")
        self._histories = Histories(
            database,
            max_messages=settings.history_max_messages,
            max_bytes=settings.history_max_tokens * BYTES_PER_TOKEN * _STORED_SIZE_MARGIN,
        )

    @property
    def turn_timeout_s(self) -> float:
        """From the start of an attempt to the end of what the model says."""
        return self._settings.turn_timeout_s

    async def run(self, held: HeldTurn) -> None:
        """Runs a turn to its end, or until it is stopped; releases what it held in Redis."""
        turn = held.turn
        turn_log = self._writer.open(
            turn.id, turn.attempt, held.generation, lambda: held.stop(StopReason.FENCED)
        )
        drive = _Drive(self, held, turn_log)
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

    # -- prepare

    async def read_resumption(self, turn: ClaimedTurn) -> Resumption:
        """What a turn goes on from that was parked."""
        return await read_resumption(self._database, turn)

    async def prepare(
        self, turn: ClaimedTurn, stack: AsyncExitStack, resumption: Resumption | None = None
    ) -> EngineRun:
        """The engine's run of a turn, with the history it may see; `stack` ends with the run.

        Raises:
            TurnFailed: the model or the settings are no good.
        """
        rows = await self._load_history(turn) if turn.has_history else []
        context = await self._contexts.read(turn)
        agent = context.agent
        mcp = NO_MCP
        if agent.mcp and self._engines.offers_tools(turn.model_id):
            mcp = await stack.enter_async_context(self._mcp.open(turn, agent.mcp, agent.tools))
        max_tokens = budget_for(turn.model_id, self._settings.history_max_tokens)
        attached: Sequence[AttachedText] = ()
        if turn.has_attachments:
            attached = await self._load_attached(turn, max_tokens // 2)
            max_tokens -= count_tokens(attached)
        window = history_window([dict(row) for row in rows], max_tokens)
        shown = await self._without_detached(turn, window.rows)
        request = EngineRequest(
            turn_id=turn.id,
            thread_id=turn.thread_id,
            tenant_id=turn.tenant_id,
            model_id=turn.model_id,
            settings=agent.sampling | turn.settings if agent.sampling else turn.settings,
            instructions=context.instructions(turn, as_instructions(attached), mcp.instructions()),
            history=[_as_model_message(row) for row in shown],
            prompt=turn.prompt,
            tools=agent.tools + mcp.tools,
            tool_context=self._tool_context(turn, context),
            max_cost=agent.max_cost,
            resumption=resumption,
        )
        run = self._engines.engine_for(turn.model_id).start(request)
        return run if resumption is None else RecordedRun(run, self._database, turn, resumption)

    def _tool_context(self, turn: ClaimedTurn, context: TurnContext) -> ToolContext:
        return ToolContext(
            tenant_id=turn.tenant_id,
            user_id=turn.user_id,
            thread_id=turn.thread_id,
            turn_id=turn.id,
            timezone=context.timezone,
            now=_utc_now,
            attached=AttachmentReader(self._database, self._attached_seats, turn),
            outbound=self._outbound,
            outbound_shares=self._outbound_shares,
        )

    async def _load_history(self, turn: ClaimedTurn) -> list[asyncpg.Record]:
        while True:
            try:
                return await self._histories.read(turn)
            except PostgresUnavailable:
                await asyncio.sleep(COMMIT_RETRY_S)

    async def _load_attached(self, turn: ClaimedTurn, max_tokens: int) -> list[AttachedText]:
        while True:
            try:
                return await read_attached(
                    self._database,
                    turn,
                    max_tokens,
                    wait_s=self._settings.ingestion_wait_s,
                    on_waiting=self._on_file_awaited,
                )
            except PostgresUnavailable:
                await asyncio.sleep(COMMIT_RETRY_S)

    async def _without_detached(
        self, turn: ClaimedTurn, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Asks Postgres only where a tool has read an attachment."""
        told = detached.find_told(rows)
        while told:
            try:
                living = await self._database.for_tenant(turn).fetch_many(
                    "find_living_attachments", turn.tenant_id, turn.thread_id, list(told)
                )
            except PostgresUnavailable:
                await asyncio.sleep(COMMIT_RETRY_S)
                continue
            return detached.without(rows, told - {row["id"] for row in living})
        return rows

    # -- drive

    async def drive(self, run: EngineRun, turn_log: TurnLog, total_deadline: float) -> None:
        """Moves the engine's events into the log, under the three deadlines.

        Raises:
            TurnFailed: the provider failed, or a deadline passed.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        began = loop.time()
        moved_at = -1.0
        try:
            async with (
                asyncio.timeout_at(
                    min(began + settings.first_token_timeout_s, total_deadline)
                ) as deadline,
                # Closed here and by this task, also when an event is one too many for the log.
                contextlib.aclosing(run.events()) as events,
            ):
                async for event in events:
                    turn_log.append(_storable_event(event))
                    now = loop.time()
                    if moved_at < 0:
                        self._metrics.first_delta.observe(now - began)
                    if now - moved_at >= _DEADLINE_STEP_S:
                        moved_at = now
                        deadline.reschedule(
                            min(now + settings.idle_timeout_s + _DEADLINE_STEP_S, total_deadline)
                        )
        except TimeoutError as error:
            if loop.time() >= total_deadline:
                raise _too_long() from error
            what = "first token" if moved_at < 0 else "answer"
            raise TurnFailed("timeout", f"The model's {what} did not come in time") from error

    # -- park

    async def _park(self, held: HeldTurn, turn_log: TurnLog, result: EngineResult) -> Ending | None:
        """Puts the turn away until its tool calls are decided; how it ends if it cannot be."""
        turn = held.turn
        held.is_ending = True
        messages = [_as_row(message, turn, None) for message in result.messages]
        last_seq = turn_log.last_seq + 1
        said = _last_text(messages)
        ttl_s = self._settings.approval_ttl_s
        arguments = park_arguments(turn, result, messages, last_seq, said, ttl_s)
        is_retry = False
        while held.stop_reason is not StopReason.FENCED:
            try:
                row = await self._database.fetch_one("park_turn", *arguments)
                if row is None and is_retry:
                    row = await self._find_own_parking(turn, last_seq)
            except PostgresUnavailable as error:
                log.warning("turn.commit_delayed", turn_id=str(turn.id), error=str(error))
                is_retry = True
                await asyncio.sleep(COMMIT_RETRY_S)
                continue
            except asyncpg.UniqueViolationError:
                message = "The model has used the id of a tool call again"
                return Ending(TurnStatus.FAILED, TurnFailed("model_error", message))
            except asyncpg.PostgresError as error:
                log.warning("turn.unstorable", turn_id=str(turn.id), exc_info=error)
                return _without_messages(Ending(TurnStatus.COMPLETED))
            if row is None:
                return Ending(TurnStatus.CANCELLED)  # or fenced: then this is refused as well
            await self._publish_parking(turn, turn_log, result, row)
            return None
        self._writer.forget(turn_log)
        return None

    async def _find_own_parking(self, turn: ClaimedTurn, last_seq: int) -> asyncpg.Record | None:
        """The row, if the commit whose outcome was unknown did happen and is the last word."""
        row = await self._database.for_tenant(turn).fetch_one(
            "get_turn_of_tenant", turn.id, turn.tenant_id
        )
        if row is None or row["status"] != TurnStatus.AWAITING_APPROVAL:
            return None
        return row if (row["attempt"], row["last_seq"]) == (turn.attempt, last_seq) else None

    async def _publish_parking(
        self, turn: ClaimedTurn, turn_log: TurnLog, result: EngineResult, row: asyncpg.Record
    ) -> None:
        calls = [OpenCall(tool_call_id=c.tool_call_id, name=c.name) for c in result.asked]
        try:
            turn_log.append(AwaitingApproval(actions=calls, expires_at=row["expires_at"]))
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
        ended = await self._commit(held, turn_log, ending, result)
        if ended is None:
            self._metrics.fenced_commits.inc()
            log.info("turn.commit_refused", turn_id=str(turn.id), attempt=turn.attempt)
            self._writer.forget(turn_log)
            return
        turn_log.append(ended, final=True)
        await self._publish(turn_log, turn)
        self._report(turn, ended)

    async def _commit(
        self, held: HeldTurn, turn_log: TurnLog, ending: Ending, result: EngineResult
    ) -> TurnEnded | None:
        """Compare-and-set on (turn, attempt), repeated until Postgres has answered.

        None: refused, the turn is somebody else's.
        """
        turn = held.turn
        arguments = _end_arguments(turn, turn_log, ending, result)
        is_retry = False
        while held.stop_reason is not StopReason.FENCED:
            try:
                row = await self._endings.run(*arguments)
                if row is None and is_retry:
                    row = await self._find_own_ending(turn, turn_log.last_seq + 1)
            except PostgresUnavailable as error:
                log.warning("turn.commit_delayed", turn_id=str(turn.id), error=str(error))
                is_retry = True
                await asyncio.sleep(COMMIT_RETRY_S)
                continue
            except asyncpg.PostgresError as error:
                # All was made storable, and yet Postgres refuses it: end without it.
                if result == EngineResult():
                    raise
                log.warning("turn.unstorable", turn_id=str(turn.id), exc_info=error)
                usage = result.usage if result.messages else turn.earlier_usage or Usage()
                result, ending = EngineResult(usage=usage), _without_messages(ending)
                arguments = _end_arguments(turn, turn_log, ending, result)
                continue
            return None if row is None else _ended_event(turn, ending, result, row)
        return None

    async def _find_own_ending(self, turn: ClaimedTurn, last_seq: int) -> asyncpg.Record | None:
        """The row, if the commit whose outcome was unknown did happen."""
        row = await self._database.for_tenant(turn).fetch_one(
            "get_turn_of_tenant", turn.id, turn.tenant_id
        )
        if row is None or row["ended_at"] is None:
            return None
        return row if (row["attempt"], row["last_seq"]) == (turn.attempt, last_seq) else None

    async def _publish(self, turn_log: TurnLog, turn: ClaimedTurn) -> None:
        change = LineChange(turn.tenant_id, turn.concurrency_key, turn.max_running, over=[turn.id])
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


def _too_long() -> TurnFailed:
    return TurnFailed("timeout", "The turn did not end in time")


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def _succeeded(reply: asyncio.Future[Any] | None) -> bool:
    """Whether a command was sent and Redis has obeyed; else it is to be sent again."""
    if reply is None:
        return False
    try:
        await reply
    except (RedisUnavailable, RedisReplyError):
        return False
    return True


class _Drive:
    """The part of a run that a stop cancels."""

    def __init__(self, runner: TurnRunner, held: HeldTurn, turn_log: TurnLog) -> None:
        self._runner = runner
        self._held = held
        self._turn_log = turn_log
        self._run: EngineRun | None = None

    async def run(self) -> None:
        total_deadline = asyncio.get_running_loop().time() + self._runner.turn_timeout_s
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(total_deadline):
                    self._run = await self._prepare(stack)
            except TimeoutError as error:
                raise _too_long() from error
            await self._runner.drive(self._run, self._turn_log, total_deadline)

    async def _prepare(self, stack: AsyncExitStack) -> EngineRun:
        turn = self._held.turn
        if turn.parked_count:
            return await self._go_on(turn, stack)
        self._turn_log.append(TurnStarted(attempt=turn.attempt, model_id=turn.model_id))
        return await self._runner.prepare(turn, stack)

    async def _go_on(self, turn: ClaimedTurn, stack: AsyncExitStack) -> EngineRun:
        """The run of a turn that was parked, once its readers have heard what led up to it."""
        resumption = await self._runner.read_resumption(turn)
        told = retell(resumption.messages)
        self._turn_log.append(
            TurnStarted(attempt=turn.attempt, model_id=turn.model_id, retold=len(told))
        )
        for event in told:
            self._turn_log.append(event)
        return await self._runner.prepare(turn, stack, resumption)

    def result(self) -> EngineResult:
        return EngineResult() if self._run is None else self._run.result()


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


def _with_result(turn: ClaimedTurn, ending: Ending, drive: _Drive) -> tuple[Ending, EngineResult]:
    """The ending and what was produced until then; the turn ends also where that cannot be told."""
    try:
        result = drive.result()
    except Exception:  # the outermost boundary of an engine
        log.critical("turn.defect", turn_id=str(turn.id), exc_info=True)
        ending, result = _without_messages(ending), EngineResult()
    if turn.earlier_usage is not None:
        result = replace(result, usage=result.usage + turn.earlier_usage)
    return ending, result


def _end_arguments(
    turn: ClaimedTurn, turn_log: TurnLog, ending: Ending, result: EngineResult
) -> tuple[Any, ...]:
    answer = _answer(result)
    messages = [_as_row(message, turn, answer) for message in result.messages]
    return (
        turn.id,
        turn.tenant_id,
        turn.attempt,
        ending.status,
        ending.error.error_code if ending.error else None,
        ending.error.message if ending.error else None,
        result.usage.model_dump(by_alias=True),
        turn_log.last_seq + 1,
        _answer_id(messages, turn),
        messages,
        _last_text(messages),
        turn.thread_id,
    )


def _last_text(messages: list[dict[str, Any]]) -> str | None:
    """Preview of the last assistant message; None when there is none, or it has no text."""
    text = next((m["content"] for m in reversed(messages) if m["role"] == "assistant"), None)
    return preview(text) if text else None


def _ended_event(
    turn: ClaimedTurn, ending: Ending, result: EngineResult, row: asyncpg.Record
) -> TurnEnded:
    error, said = ending.error, row["output_message_id"]
    return TurnEnded(
        status=ending.status,
        error=TurnError(code=error.error_code, message=error.message) if error else None,
        usage=result.usage,
        output_message_id=None if said is None else str(said),
        duration_s=duration_s(row["started_at"], row["ended_at"]),
    )


def _without_messages(ending: Ending) -> Ending:
    """What is left of an ending whose messages cannot be stored."""
    if ending.status is not TurnStatus.COMPLETED:
        return ending
    return Ending(
        TurnStatus.FAILED, TurnFailed("internal", "The model's answer could not be stored")
    )


def _as_model_message(row: Mapping[str, Any]) -> dict[str, Any]:
    raw = row["raw_data"]
    if raw is not None:
        return dict(raw)
    if row["role"] == "assistant":
        return {"kind": "response", "parts": [{"part_kind": "text", "content": row["content"]}]}
    part_kind = "system-prompt" if row["role"] == "system" else "user-prompt"
    return {"kind": "request", "parts": [{"part_kind": part_kind, "content": row["content"]}]}


def _storable_event(event: EngineEvent) -> EngineEvent:
    """The event as readers and Postgres will both have it: what is streamed is what is kept."""
    if isinstance(event, _DELTAS):
        text = storable(event.text)
        return event if text is event.text else type(event)(text)
    match event:
        case ToolCall() | ToolResult():
            return event.model_copy(update=storable_json(event.model_dump()))
        case _:
            assert_never(event)


def _as_row(
    message: EngineMessage, turn: ClaimedTurn, answer: EngineMessage | None
) -> dict[str, Any]:
    return {
        "id": str(turn.output_message_id if message is answer else new_id()),
        "role": message.role,
        "content": storable(message.content),
        "raw_data": storable_json(message.raw),
    }


def _answer(result: EngineResult) -> EngineMessage | None:
    """The last assistant message: the turn's output."""
    return next((m for m in reversed(result.messages) if m.role == "assistant"), None)


def _answer_id(messages: list[dict[str, Any]], turn: ClaimedTurn) -> str | None:
    wanted = str(turn.output_message_id)
    return wanted if any(message["id"] == wanted for message in messages) else None
