"""The ASGI application: what a process needs, opened and closed around it, and the routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api import health, metrics
from api.admission import Admission, RateLimit
from api.chat import feedback, messages, threads, turns
from api.chat.fast_get_turn import FastGetTurn
from api.failed_credentials import FailedCredentials
from api.hot_routes import HotRoutes
from api.metrics import CountRequests, RequestCounter
from api.openapi import build_document, routes_from, serve_document
from api.pressure import Pressure
from api.problems import EXCEPTION_HANDLERS
from api.sse import StreamContext
from api.stream_keeper import StreamKeeper
from shared.metrics import Metrics
from shared.postgres.group_read import GroupRead
from shared.service.api_keys import ApiKeys
from shared.service.backlog import BacklogCounter
from shared.service.core import open_core
from shared.service.feedback import FeedbackService
from shared.service.follow import FollowHub
from shared.service.threads import ThreadService
from shared.settings import Settings

OPERATIONS = (
    *threads.OPERATIONS,
    *messages.OPERATIONS,
    *turns.OPERATIONS,
    *feedback.OPERATIONS,
)
HOT = ("stream_turn", "submit_turn", "get_turn", "follow_turn", "attach_to_thread")
"""Ids of the operations that nearly all requests ask for, or that stay for long."""


class Application(Starlette):
    """Starlette, with a short way in for the hot operations."""

    hot_routes: HotRoutes
    rate_limit: RateLimit | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan."""
        scope["app"] = self
        if self.rate_limit is not None and scope["type"] == "http":
            send = self.rate_limit.telling(scope, send)
        if scope["type"] != "http" or not await self.hot_routes.answer(scope, receive, send):
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Starlette:
    """The application; it connects to nothing before its lifespan starts."""
    counters = Metrics()
    counter = RequestCounter(counters)
    app = Application(
        routes=[*routes_from(OPERATIONS), *_plain_routes()],
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[Middleware(CountRequests, counter=counter)],
        lifespan=_lifespan,
    )
    app.hot_routes = HotRoutes(
        [operation for operation in OPERATIONS if operation.operation_id in HOT],
        {"get_turn": _answer_get_turn},
        counter,
    )
    per_minute = settings.rate_limit_per_minute
    app.rate_limit = RateLimit(per_minute) if per_minute else None
    # A redirect would be built from the Host header, which anybody can choose.
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.draining = False
    app.state.redis_was_fit = False
    app.state.metrics = counters
    app.state.failed_credentials = FailedCredentials(settings.auth_failures_per_minute)
    app.state.rate_limit = app.rate_limit
    return app


def _answer_get_turn(scope: Scope, text: str, send: Send) -> Awaitable[int | None]:
    answer: FastGetTurn = scope["app"].state.fast_get_turn
    return answer(scope, text, send)


def _plain_routes() -> list[Route]:
    return [
        Route("/livez", health.livez),
        Route("/readyz", health.readyz),
        Route("/metrics", metrics.serve_metrics),
        Route("/openapi.json", serve_document(build_document(OPERATIONS))),
    ]


def begin_drain(app: Starlette) -> None:
    """Makes the process not ready and tells open streams to reconnect elsewhere."""
    app.state.draining = True
    hub: FollowHub | None = getattr(app.state, "hub", None)
    if hub is not None:
        hub.drain()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    state = app.state
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(
            open_core(
                settings, state.metrics, database_connections=settings.api_database_connections
            )
        )
        state.database = core.database
        state.redis = core.connection
        state.event_log = core.event_log
        state.hub = core.hub
        state.turns = core.turns
        state.threads = ThreadService(state.database, state.turns)
        state.feedback = FeedbackService(state.database)
        state.api_keys = ApiKeys(state.database, settings.key_pepper.get_secret_value().encode())
        state.fast_get_turn = FastGetTurn(state.api_keys, GroupRead(core.database), core.turns)
        counter = BacklogCounter(core.database, core.backlog, state.metrics)
        await stack.enter_async_context(counter)
        pressure = Pressure(core.turns.commit_wait_s, state.metrics)
        await stack.enter_async_context(pressure)
        state.admission = Admission(settings, state.metrics, pressure)
        look_interval_s = min(1.0, settings.keep_alive_s / 4)
        keeper = StreamKeeper(state.api_keys, look_interval_s=look_interval_s)
        state.streams = StreamContext(
            hub=state.hub,
            keeper=await stack.enter_async_context(keeper),
            seats=state.admission.streams,
            settings=settings,
            metrics=state.metrics,
            is_draining=lambda: bool(state.draining),
        )
        yield
