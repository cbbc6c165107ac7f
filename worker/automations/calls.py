"""One step of a run as a call of its tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pydantic import JsonValue

from shared.agents.tool_names import READ_ATTACHMENT, SEARCH_ATTACHMENTS
from shared.automations.progress import StepState
from shared.postgres.pool import Database
from shared.settings import Settings
from shared.turn.attached import AttachedName, AttachedPart
from worker.attachments.reader import TEXTS_AT_ONCE, AttachmentReader
from worker.context import known_timezone
from worker.patience import insist
from worker.tools.base import ToolContext, ToolFailed, call_tool
from worker.tools.registry import TOOLS
from worker.tools.shares import TenantShares

if TYPE_CHECKING:
    from shared.outbound.client import GuardedClient

_READERS: Final = frozenset({READ_ATTACHMENT, SEARCH_ATTACHMENTS})


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run that this worker has made its own under `attempt`."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    """Who started it: steps are made in this user's name."""
    author_id: UUID | None
    """Who wrote the version that runs."""
    attempt: int
    timezone: str | None
    """That the user has stored."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A `worker.attachments.reader.Reader`."""

    tenant_id: UUID
    user_id: UUID
    thread_id: UUID
    input_message_id: UUID | None


class StepCaller:
    """Calls tools as turns do: the same checks of arguments, time and size."""

    def __init__(
        self, database: Database, settings: Settings, outbound: GuardedClient | None
    ) -> None:
        self._database = database
        self._timeout_s = settings.tool_timeout_s
        self._outbound = outbound
        self._outbound_shares = TenantShares(settings.tool_http_requests_per_tenant)
        self._seats = asyncio.Semaphore(TEXTS_AT_ONCE)

    async def call(self, run: ClaimedRun, step: StepState) -> JsonValue:
        """What the step's tool gives.

        Raises:
            ToolFailed: for whatever reason; the message is shown to the tenant.
        """
        tool = TOOLS.get(step.kind)
        if tool is None or tool.requires_approval:
            raise ToolFailed(f"This deployment runs no steps of kind {step.kind}")
        source = _source(run, step)
        if step.kind in _READERS:
            async with _within(self._timeout_s):
                await self._require_readable(run, step, source)
        context = ToolContext(
            tenant_id=run.tenant_id,
            user_id=run.user_id,
            thread_id=source.thread_id,
            turn_id=run.id,
            timezone=known_timezone(run.timezone),
            now=_utc_now,
            attached=_PatientReader(self._database, self._seats, source),
            outbound=self._outbound,
            outbound_shares=self._outbound_shares,
        )
        return await call_tool(tool, context, step.input, timeout_s=self._timeout_s)

    async def _require_readable(self, run: ClaimedRun, step: StepState, source: _Source) -> None:
        """Raises ToolFailed unless the step may read its thread's attachments.

        A thread is its user's, an automation and its results are the tenant's: so it is read only
        where one and the same user has written the version and started the run.
        """
        if source.thread_id == run.id:
            raise ToolFailed("The step names no thread whose attachments it could read")
        if run.author_id != run.user_id:
            raise ToolFailed(
                "A thread's attachments are read only in runs of the user who wrote this version"
            )
        own = self._database.for_tenant(source)
        thread = await insist(
            lambda: own.fetch_one("get_thread", source.thread_id, run.tenant_id, run.user_id)
        )
        if thread is None:
            raise ToolFailed("The thread whose attachments the step reads is gone")


class _PatientReader(AttachmentReader):
    """Waits for a Postgres that is away, as long as the call may take."""

    async def _list(self, name: str | None, most: int) -> list[AttachedName]:
        return await insist(lambda: super(_PatientReader, self)._list(name, most))

    async def _read(self, attachment_id: UUID, offset: int, max_chars: int) -> AttachedPart | None:
        return await insist(
            lambda: super(_PatientReader, self)._read(attachment_id, offset, max_chars)
        )


def _source(run: ClaimedRun, step: StepState) -> _Source:
    """Whose attachments the step may read; without a source of its own those of no thread."""
    source = step.source or {}
    thread_id, message_id = source.get("threadId"), source.get("messageId")
    return _Source(
        run.tenant_id,
        run.user_id,
        run.id if thread_id is None else UUID(thread_id),
        None if message_id is None else UUID(message_id),
    )


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise ToolFailed(f"The tool did not answer within {timeout_s:g} s") from None


def _utc_now() -> datetime:
    return datetime.now(UTC)
