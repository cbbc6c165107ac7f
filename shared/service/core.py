"""What the API and the workers both stand on: connections, dispatch, logs, turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shared.background import in_background
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.control import Control
from shared.redis.dispatch import CommandConnection, Dispatch
from shared.redis.event_log import EventLog
from shared.redis.keys import Keys
from shared.redis.subscriber import Subscriber
from shared.redis.turn_feed import TurnFeed
from shared.service.backlog import Backlog, Limits
from shared.service.cancel import CancelService
from shared.service.ends import TurnEnds
from shared.service.follow import FollowHub
from shared.service.storage import StorageQuota
from shared.service.turns import TurnService
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Core:
    """The parts by duty."""

    settings: Settings
    metrics: Metrics
    keys: Keys
    database: Database
    connection: CommandConnection
    subscriber: Subscriber
    dispatch: Dispatch
    event_log: EventLog
    control: Control
    hub: FollowHub
    backlog: Backlog
    turns: TurnService
    ends: TurnEnds
    cancels: CancelService


@asynccontextmanager
async def open_core(
    settings: Settings, metrics: Metrics, *, database_connections: int
) -> AsyncIterator[Core]:
    """Builds the core; nothing is connected before it is used. Closes all when the block ends."""
    redis_url = settings.redis_url.get_secret_value()
    keys = Keys(prefix=settings.redis_prefix)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(settings.database_url.get_secret_value(), size=database_connections)
        )
        connection = CommandConnection(redis_url, keys)
        stack.push_async_callback(connection.close)
        subscriber = await stack.enter_async_context(Subscriber(redis_url))
        dispatch = Dispatch(connection, keys)
        control = Control(connection, keys)
        event_log = EventLog(
            connection,
            keys,
            # Twice what a writer may say: the script's own limit is a second lock, not the first.
            max_bytes=settings.event_log_max_bytes * 2,
            live_ttl_s=settings.live_ttl_s,
            ttl_s=settings.event_log_ttl_s,
        )
        hub = FollowHub(
            database=database,
            feed=TurnFeed(subscriber, keys),
            event_log=event_log,
            buffer_bytes=settings.stream_buffer_bytes,
        )
        await stack.enter_async_context(in_background(hub.run))
        backlog = Backlog(Limits.of(settings))
        turns = TurnService(
            database=database,
            dispatch=dispatch,
            hub=hub,
            metrics=metrics,
            backlog=backlog,
            queue_ttl_s=settings.queue_ttl_s,
            quota=StorageQuota.of(settings),
        )
        stack.push_async_callback(turns.close)
        ends = TurnEnds(database=database, dispatch=dispatch, event_log=event_log)
        cancels = CancelService(
            database=database,
            control=control,
            hub=hub,
            turns=turns,
            ends=ends,
            metrics=metrics,
            wait_s=settings.cancel_wait_s,
        )
        yield Core(
            settings=settings,
            metrics=metrics,
            keys=keys,
            database=database,
            connection=connection,
            subscriber=subscriber,
            dispatch=dispatch,
            event_log=event_log,
            control=control,
            hub=hub,
            backlog=backlog,
            turns=turns,
            ends=ends,
            cancels=cancels,
        )
