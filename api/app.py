"""The ASGI application: what a process needs, opened and closed around it, and the routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api import health, metrics
from api.account import access_tokens, sign_in, users
from api.admission import Admission, RateLimit
from api.agents import specs
from api.artifacts import operations as artifacts
from api.automations import automations
from api.automations import runs as automation_runs
from api.chat import approvals, attachments, feedback, messages, threads, turns
from api.chat.fast_get_turn import FastGetTurn
from api.failed_credentials import FailedCredentials
from api.hot_routes import HotRoutes
from api.metrics import CountRequests, RequestCounter
from api.openapi import build_document, routes_from, serve_document
from api.pressure import Pressure
from api.problems import EXCEPTION_HANDLERS
from api.sse import StreamContext
from api.state import ApiState
from api.stream_keeper import StreamKeeper
from shared.background import in_background
from shared.files.object_store import ObjectStore
from shared.jobs import RUN_AUTOMATIONS
from shared.metrics import Metrics
from shared.postgres.group_read import GroupRead
from shared.service.agent_specs import AgentSpecService, agent_catalogue
from shared.service.api_keys import ApiKeys
from shared.service.approvals import ApprovalService
from shared.service.artifacts import ArtifactService
from shared.service.attachments import AttachmentService
from shared.service.automation_runs import AutomationRunService
from shared.service.automations import AutomationService, runnable_kinds
from shared.service.backlog import BacklogCounter
from shared.service.core import open_core
from shared.service.doorbell import Doorbell
from shared.service.feedback import FeedbackService
from shared.service.identity_provider import IdentityProvider
from shared.service.passwords import Passwords
from shared.service.sign_in import SignIn
from shared.service.storage import StorageQuota
from shared.service.threads import ThreadService
from shared.service.users import UserService
from shared.settings import Settings

OPERATIONS = (
    *threads.OPERATIONS,
    *messages.OPERATIONS,
    *turns.OPERATIONS,
    *approvals.OPERATIONS,
    *feedback.OPERATIONS,
    *attachments.OPERATIONS,
    *artifacts.OPERATIONS,
    *specs.OPERATIONS,
    *automations.OPERATIONS,
    *automation_runs.OPERATIONS,
    *sign_in.OPERATIONS,
    *users.OPERATIONS,
    *access_tokens.OPERATIONS,
)
HOT = ("stream_turn", "submit_turn", "get_turn", "follow_turn", "attach_to_thread")
"""Ids of the operations that nearly all requests ask for, or that stay for long."""


class Application(Starlette):
    """Starlette, with a typed state and a short way in for the hot operations."""

    hot_routes: HotRoutes
    state: ApiState  # type: ignore[assignment]  # Starlette's own takes any name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan."""
        scope["app"] = self
        rate_limit = self.state.rate_limit
        if rate_limit is not None and scope["type"] == "http":
            send = rate_limit.telling(scope, send)
        if scope["type"] != "http" or not await self.hot_routes.answer(scope, receive, send):
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Application:
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
    # A redirect would be built from the Host header, which anybody can choose.
    app.router.redirect_slashes = False
    per_minute = settings.rate_limit_per_minute
    app.state = ApiState(
        settings=settings,
        metrics=counters,
        failed_credentials=FailedCredentials(settings.auth_failures_per_minute),
        rate_limit=RateLimit(per_minute) if per_minute else None,
    )
    return app


def _answer_get_turn(scope: Scope, text: str, send: Send) -> Awaitable[int | None]:
    state: ApiState = scope["app"].state
    return state.fast_get_turn(scope, text, send)


def _plain_routes() -> list[Route]:
    return [
        Route("/livez", health.livez),
        Route("/readyz", health.readyz),
        Route("/metrics", metrics.serve_metrics),
        Route("/openapi.json", serve_document(build_document(OPERATIONS))),
    ]


def begin_drain(app: Application) -> None:
    """Makes the process not ready and tells open streams to reconnect elsewhere."""
    app.state.draining = True
    if hasattr(app.state, "hub"):  # else it has not begun yet
        app.state.hub.drain()


async def _open_accounts(state: ApiState, stack: AsyncExitStack) -> None:
    """What knows who asks."""
    settings = state.settings
    provider = IdentityProvider.from_settings(settings)
    if provider is not None:
        stack.push_async_callback(provider.close)
    pepper = settings.key_pepper.get_secret_value().encode()
    state.api_keys = await stack.enter_async_context(ApiKeys(state.database, pepper, provider))
    passwords = Passwords()
    stack.callback(passwords.close)
    state.sign_in = SignIn(state.database, passwords, settings)
    state.users = UserService(state.database, state.api_keys, settings)


@asynccontextmanager
async def _lifespan(app: Application) -> AsyncIterator[None]:
    state = app.state
    settings = state.settings
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
        state.cancels = core.cancels
        state.approvals = ApprovalService(core.database, core.turns, state.metrics)
        state.threads = ThreadService(state.database, core.cancels)
        state.feedback = FeedbackService(state.database)
        catalogue = agent_catalogue(settings)
        state.agent_specs = AgentSpecService(core.database, catalogue)
        kinds = runnable_kinds(catalogue.tools)
        state.automations = AutomationService(core.database, kinds)
        state.automation_runs = AutomationRunService(
            core.database, kinds, Doorbell(core.connection, core.keys, RUN_AUTOMATIONS).ring
        )
        state.objects = ObjectStore(settings)
        quota = StorageQuota.of(settings)
        state.artifacts = ArtifactService(state.database, state.objects, quota)
        state.attachments = AttachmentService(
            state.database, quota, Doorbell(core.connection, core.keys).ring
        )
        await _open_accounts(state, stack)
        state.fast_get_turn = FastGetTurn(state.api_keys, GroupRead(core.database), core.turns)
        counter = BacklogCounter(core.database, core.backlog, state.metrics)
        pressure = Pressure(core.turns.commit_wait_s, state.metrics)
        state.admission = Admission(settings, state.metrics, pressure)
        look_interval_s = min(1.0, settings.keep_alive_s / 4)
        keeper = StreamKeeper(state.api_keys, look_interval_s=look_interval_s)
        state.streams = StreamContext(
            hub=state.hub,
            keeper=keeper,
            seats=state.admission.streams,
            settings=settings,
            metrics=state.metrics,
            is_draining=lambda: state.draining,
        )
        loops = (counter.run, pressure.run, keeper.run_looks, keeper.run_checks)
        await stack.enter_async_context(in_background(*loops))
        yield
