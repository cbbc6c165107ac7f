"""Everything a worker process consists of, built once from its settings."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shared.files.object_store import ObjectStore
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.control import Control
from shared.redis.dispatch import CommandConnection, Dispatch
from shared.redis.keys import Keys
from shared.redis.subscriber import Subscriber
from shared.service.core import open_core
from shared.settings import Settings
from worker.automations.runner import AutomationRunner
from worker.engine.registry import Engines
from worker.event_writer import EventWriter
from worker.heartbeat import Heartbeat
from worker.held_turns import HeldTurns
from worker.ingestion.ingester import Ingester
from worker.mcp_client.servers import McpServers
from worker.reaper import Reaper
from worker.sweeper import Sweeper
from worker.turn_claims import TurnClaims
from worker.turn_commits import TurnCommits
from worker.turn_preparer import TurnPreparer
from worker.turn_runner import TurnRunner


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The parts by duty. `worker_id` names this process, never a later one on the same host."""

    settings: Settings
    worker_id: str
    keys: Keys
    database: Database
    connection: CommandConnection
    subscriber: Subscriber
    dispatch: Dispatch
    control: Control
    held: HeldTurns
    claims: TurnClaims
    writer: EventWriter
    runner: TurnRunner
    heartbeat: Heartbeat
    reaper: Reaper
    sweeper: Sweeper
    engines: Engines
    objects: ObjectStore
    ingester: Ingester
    automations: AutomationRunner
    metrics: Metrics


@asynccontextmanager
async def open_parts(settings: Settings, metrics: Metrics) -> AsyncIterator[WorkerParts]:
    """Builds the parts; closes what they opened when the block ends."""
    worker_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    held = HeldTurns()
    metrics.held_turns.set_function(lambda: len(held))
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(
            open_core(settings, metrics, database_connections=settings.worker_database_connections)
        )
        engines = Engines(settings)
        stack.push_async_callback(engines.aclose)
        objects = ObjectStore(settings)
        ingester = Ingester(
            database=core.database, objects=objects, settings=settings, metrics=metrics
        )
        mcp = McpServers(core.database, settings)
        stack.push_async_callback(mcp.aclose)
        outbound = None
        if settings.tool_http_request:
            from shared.outbound.client import GuardedClient

            outbound = await stack.enter_async_context(GuardedClient.from_settings(settings))
        sweeper = Sweeper(
            database=core.database,
            dispatch=core.dispatch,
            turns=core.turns,
            ends=core.ends,
            metrics=metrics,
            interval_s=settings.sweeper_interval_s,
            approval_expiry=settings.approval_expiry,
        )
        writer = EventWriter(
            event_log=core.event_log,
            dispatch=core.dispatch,
            database=core.database,
            metrics=metrics,
            max_bytes=settings.event_log_max_bytes,
            on_generation_lost=sweeper.request_rebuild,
        )
        yield WorkerParts(
            settings=settings,
            worker_id=worker_id,
            keys=core.keys,
            database=core.database,
            connection=core.connection,
            subscriber=core.subscriber,
            dispatch=core.dispatch,
            control=core.control,
            held=held,
            claims=TurnClaims(
                database=core.database,
                dispatch=core.dispatch,
                metrics=metrics,
                worker_id=worker_id,
                lease_s=settings.lease_s,
            ),
            writer=writer,
            runner=TurnRunner(
                preparer=TurnPreparer(
                    database=core.database,
                    engines=engines,
                    settings=settings,
                    on_file_awaited=ingester.wake,
                    mcp=mcp,
                    outbound=outbound,
                ),
                commits=TurnCommits(core.database, approval_ttl_s=settings.approval_ttl_s),
                dispatch=core.dispatch,
                writer=writer,
                metrics=metrics,
                settings=settings,
            ),
            heartbeat=Heartbeat(
                database=core.database,
                control=core.control,
                subscriber=core.subscriber,
                held=held,
                worker_id=worker_id,
                interval_s=settings.heartbeat_s,
                lease_s=settings.lease_s,
            ),
            reaper=Reaper(
                database=core.database,
                dispatch=core.dispatch,
                control=core.control,
                ends=core.ends,
                metrics=metrics,
                worker_id=worker_id,
                interval_s=settings.reaper_interval_s,
                lease_s=settings.lease_s,
                crash_budget=settings.crash_budget,
            ),
            sweeper=sweeper,
            engines=engines,
            objects=objects,
            ingester=ingester,
            automations=AutomationRunner(
                database=core.database, settings=settings, metrics=metrics, outbound=outbound
            ),
            metrics=metrics,
        )
