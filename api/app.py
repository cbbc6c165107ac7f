"""The ASGI application: what a process needs, opened and closed around it, and the routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api import health, metrics
from api.account import access_tokens, sign_in, users
from api.admission import Admission, RateLimit
from api.ag_ui import runs as ag_ui
from api.agents import specs
from api.artifacts import operations as artifacts
from api.automations import automations
from api.automations import runs as automation_runs
from api.chat import approvals, attachments, feedback, messages, threads, turns
from api.chat.fast_get_turn import FastGetTurn
from api.failed_credentials import FailedCredentials
from api.hot_routes import HotRoutes
from api.kodey import surface as kodey
from api.mechamental import surface as mechamental
from api.metrics import CountRequests, RequestCounter
from api.openapi import routes_from, serve_document
from api.page_cursors import CursorSigner
from api.pressure import Pressure
from api.problems import EXCEPTION_HANDLERS
from api.responses import surface as responses
from api.sse import StreamContext
from api.state import ApiState
from api.stream_keeper import StreamKeeper
from api.zylon import surface as zylon
from shared.background import in_background
from shared.files.object_store import ObjectStore
from shared.jobs import INGEST_FILES, RUN_AUTOMATIONS
from shared.metrics import Metrics
from shared.postgres.group_read import GroupRead
from shared.service.agent_specs import AgentSpecService, agent_catalogue
from shared.service.approvals import ApprovalService
from shared.service.artifacts import ArtifactService
from shared.service.attachments import AttachmentService
from shared.service.automation_runs import AutomationRunService
from shared.service.automations import AutomationService, runnable_kinds
from shared.service.backlog import BacklogCounter
from shared.service.chats import ChatService
from shared.service.core import open_core
from shared.service.credentials import Credentials
from shared.service.doorbell import Doorbell
from shared.service.exchanges import Exchanges
from shared.service.feedback import FeedbackService
from shared.service.interactions import Interactions
from shared.service.named_threads import NamedThreads
from shared.service.passwords import Passwords
from shared.service.project_artifacts import ProjectArtifacts
from shared.service.project_threads import ProjectThreads
from shared.service.projects import ProjectService
from shared.service.shared_threads import SharedThreads
from shared.service.sign_in import SignIn
from shared.service.storage import StorageQuota
from shared.service.threads import ThreadService
from shared.service.transient_threads import TransientThreads
from shared.service.users import UserService
from shared.settings import Settings
from shared.turn.model import CredentialKind

if TYPE_CHECKING:
    from shared.service.identity_provider import IdentityProvider

OPERATIONS = (
    *threads.OPERATIONS,
    *messages.OPERATIONS,
    *turns.OPERATIONS,
    *approvals.OPERATIONS,
    *ag_ui.OPERATIONS,
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
SURFACES = (mechamental.SURFACE, kodey.SURFACE, zylon.SURFACE, responses.SURFACE)
"""Beside the primary one; none knows another."""
ALL_OPERATIONS = (
    *OPERATIONS,
    *(operation for surface in SURFACES for operation in surface.operations),
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
        routes=[
            *routes_from(
                ALL_OPERATIONS,
                (route for surface in SURFACES for route in surface.plain_routes),
            ),
            *_plain_routes(),
        ],
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
        rate_limits_of={
            kind: RateLimit(most)
            for kind, most in (
                (CredentialKind.KODEY_PUBLISHABLE, settings.kodey_publishable_per_minute),
                (CredentialKind.KODEY_SECRET, settings.kodey_secret_per_minute),
            )
            if most
        },
        dialects=tuple(told for surface in SURFACES for told in surface.dialects),
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
        Route("/openapi.json", serve_document(ALL_OPERATIONS)),
    ]


def begin_drain(app: Application) -> None:
    """Makes the process not ready and tells open streams to reconnect elsewhere."""
    app.state.draining = True
    if hasattr(app.state, "hub"):  # else it has not begun yet
        app.state.hub.drain()


def _identity_provider(settings: Settings) -> IdentityProvider | None:
    """The issuer of this deployment; what it needs is loaded only where there is one."""
    if settings.jwt_issuer is None:
        return None
    from shared.service.identity_provider import IdentityProvider

    return IdentityProvider.from_settings(settings)


async def _open_accounts(state: ApiState, stack: AsyncExitStack) -> None:
    """What knows who asks."""
    settings = state.settings
    provider = _identity_provider(settings)
    if provider is not None:
        stack.push_async_callback(provider.close)
    pepper = settings.key_pepper.get_secret_value().encode()
    state.cursors = CursorSigner(pepper)
    state.credentials = await stack.enter_async_context(
        Credentials(state.database, pepper, provider)
    )
    passwords = Passwords()
    stack.callback(passwords.close)
    state.sign_in = SignIn(state.database, passwords, settings)
    state.users = UserService(state.database, state.credentials, settings)


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
        state.shared_threads = SharedThreads(state.database, core.cancels)
        state.named_threads = NamedThreads(state.database, state.shared_threads)
        state.exchanges = Exchanges(state.database, core.cancels)
        state.projects = ProjectService(state.database)
        state.project_threads = ProjectThreads(state.database, state.projects)
        state.project_artifacts = ProjectArtifacts(state.database)
        state.interactions = Interactions(state.database, state.projects)
        state.chats = ChatService(state.database)
        state.transient_threads = TransientThreads(state.database)
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
            state.database, quota, Doorbell(core.connection, core.keys, INGEST_FILES).ring
        )
        await _open_accounts(state, stack)
        state.fast_get_turn = FastGetTurn(state.credentials, GroupRead(core.database), core.turns)
        counter = BacklogCounter(core.database, core.backlog, state.metrics)
        pressure = Pressure(core.turns.commit_wait_s, state.metrics)
        state.admission = Admission(settings, state.metrics, pressure)
        look_interval_s = min(1.0, settings.keep_alive_s / 4)
        keeper = StreamKeeper(state.credentials, look_interval_s=look_interval_s)
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
