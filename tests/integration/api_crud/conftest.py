"""The surface's threads and messages over HTTP, in this process, on a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from api import health
from api.admission import Admission
from api.agents import specs
from api.chat import feedback, messages, threads
from api.failed_credentials import FailedCredentials
from api.openapi import routes_from
from api.page_cursors import CursorSigner
from api.pressure import Pressure
from api.problems import EXCEPTION_HANDLERS
from api.state import ApiState
from shared.metrics import Metrics
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.service.agent_specs import AgentSpecService, agent_catalogue
from shared.service.credentials import Credentials
from shared.service.feedback import FeedbackService
from shared.service.threads import ThreadService
from tests.fixtures.system import Api

PEPPER = b"a pepper for tests"
THREADS = "/api/v1/chat/threads"


class Client(httpx.AsyncClient):
    """A user's client. `tenant_id`, `user_id` and `secret` tell whose."""

    def __init__(self, app: Starlette, tenant_id: Any, user_id: Any, secret: str) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://test",
            headers={"authorization": f"Bearer {secret}"},
        )
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.secret = secret


AddClient = Callable[..., Awaitable[Client]]


@pytest.fixture
def app(api: Api) -> Starlette:
    app = Starlette(
        routes=[
            *routes_from(
                [
                    *threads.OPERATIONS,
                    *messages.OPERATIONS,
                    *feedback.OPERATIONS,
                    *specs.OPERATIONS,
                ]
            ),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
        ],
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    app.router.redirect_slashes = False  # a redirect would repeat the Host header
    state = ApiState(api.settings, Metrics(), FailedCredentials(0))
    state.database = api.database
    state.redis = api.connection
    state.turns = api.turns
    state.threads = ThreadService(api.database, api.cancels)
    state.feedback = FeedbackService(api.database)
    state.agent_specs = AgentSpecService(api.database, agent_catalogue(api.settings))
    state.cursors = CursorSigner(PEPPER)
    state.credentials = Credentials(api.database, PEPPER)
    state.admission = Admission(api.settings, Metrics(), Pressure(lambda: 0.0, Metrics()))
    app.state = state  # type: ignore[assignment]  # as `api.app.Application` has it
    return app


@pytest.fixture
async def add_client(app: Starlette, api: Api) -> AsyncIterator[AddClient]:
    """Makes users: `await add_client()` in a tenant of their own, or `add_client(tenant_id=…)`."""
    opened: list[Client] = []

    async def add(tenant_id: Any = None) -> Client:
        tenant_id = tenant_id or await create_tenant(api.database, "Test")
        email = f"user{len(opened)}@example.org"
        user_id = await create_user(api.database, tenant_id, email, "User")
        secret = await create_api_key(
            api.database, tenant_id=tenant_id, user_id=user_id, name="test", pepper=PEPPER
        )
        opened.append(Client(app, tenant_id, user_id, secret))
        return opened[-1]

    yield add
    for client in opened:
        await client.aclose()


@pytest.fixture
async def client(add_client: AddClient) -> Client:
    return await add_client()


@pytest.fixture
def anonymous(app: Starlette) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")
