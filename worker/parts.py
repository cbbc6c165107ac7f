"""Everything a worker process consists of, built once from its settings."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.control import Control
from shared.redis.dispatch import CommandConnection, Dispatch
from shared.redis.event_log import EventLog
from shared.redis.keys import Keys
from shared.redis.subscriber import Subscriber
from shared.service.follow import FollowHub
from shared.service.turns import TurnService
from shared.settings import Settings
from worker.engine.registry import Engines
from worker.event_writer import EventWriter
from worker.held_turns import HeldTurns
from worker.lease import Heartbeat
from worker.reaper import Reaper
from worker.sweeper import Sweeper
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
    writer: EventWriter
    runner: TurnRunner
    heartbeat: Heartbeat
    reaper: Reaper
    sweeper: Sweeper
    engines: Engines
    metrics: Metrics


@asynccontextmanager
async def open_parts(settings: Settings, metrics: Metrics) -> AsyncIterator[WorkerParts]:
    """Builds the parts; closes what they opened when the block ends."""
    redis_url = settings.redis_url.get_secret_value()
    worker_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    keys = Keys(prefix=settings.redis_prefix)
    held = HeldTurns()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(
                settings.database_url.get_secret_value(), size=settings.worker_database_connections
            )
        )
        connection = CommandConnection(redis_url, keys)
        stack.push_async_callback(connection.close)
        subscriber = await stack.enter_async_context(Subscriber(redis_url))
        dispatch = Dispatch(connection, keys)
        control = Control(connection, keys)
        event_log = EventLog(
            connection,
            keys,
            max_bytes=settings.event_log_max_bytes * 2,
            live_ttl_s=settings.live_ttl_s,
            ttl_s=settings.event_log_ttl_s,
        )
        hub = FollowHub(
            database=database,
            subscriber=subscriber,
            event_log=event_log,
            keys=keys,
            buffer_bytes=settings.stream_buffer_bytes,
        )
        turns = TurnService(
            database=database,
            dispatch=dispatch,
            event_log=event_log,
            control=control,
            hub=hub,
            metrics=metrics,
            queue_ttl_s=settings.queue_ttl_s,
            cancel_wait_s=settings.cancel_wait_s,
        )
        sweeper = Sweeper(
            database=database,
            dispatch=dispatch,
            turns=turns,
            metrics=metrics,
            interval_s=settings.sweeper_interval_s,
        )
        writer = EventWriter(
            event_log=event_log,
            dispatch=dispatch,
            database=database,
            metrics=metrics,
            max_bytes=settings.event_log_max_bytes,
            on_generation_lost=sweeper.request_rebuild,
        )
        metrics.held_turns.set_function(lambda: len(held))
        engines = Engines(settings)
        stack.push_async_callback(engines.aclose)
        yield WorkerParts(
            settings=settings,
            worker_id=worker_id,
            keys=keys,
            database=database,
            connection=connection,
            subscriber=subscriber,
            dispatch=dispatch,
            control=control,
            held=held,
            writer=writer,
            runner=TurnRunner(
                database=database,
                dispatch=dispatch,
                writer=writer,
                engines=engines,
                metrics=metrics,
                settings=settings,
            ),
            heartbeat=Heartbeat(
                database=database,
                control=control,
                held=held,
                worker_id=worker_id,
                interval_s=settings.heartbeat_s,
                lease_s=settings.lease_s,
            ),
            reaper=Reaper(
                database=database,
                dispatch=dispatch,
                control=control,
                turns=turns,
                metrics=metrics,
                worker_id=worker_id,
                interval_s=settings.reaper_interval_s,
                lease_s=settings.lease_s,
                crash_budget=settings.crash_budget,
            ),
            sweeper=sweeper,
            engines=engines,
            metrics=metrics,
        )
