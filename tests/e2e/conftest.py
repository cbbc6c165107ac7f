"""A running Turnkeep, a Chromium, and the page made of each line of the AI SDK."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright

from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user, set_password
from shared.service.passwords import hash_password
from tests.acceptance.client import Client
from tests.acceptance.conftest import deployment as deployment
from tests.acceptance.product import PEPPER, Product
from tests.e2e import report
from tests.e2e.browser import LINES, Bundle, Missing, find_chromium, make_bundle
from tests.e2e.chat_page import ChatPage

EMAIL = "ann@acme.example"
PASSWORD = "a password to type"
PATIENCE_S = 240
CHAT = "/api/v1/chat"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all: the browser lives on it."""
    for item in items:
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        item.add_marker(pytest.mark.timeout(PATIENCE_S, func_only=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", action="store_true", help="write docs/reports/e2e-DATE.md")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(report.Reporter(config), "e2e-report")


@pytest.fixture(scope="session")
def chromium() -> str:
    try:
        return find_chromium()
    except Missing as missing:
        pytest.exit(str(missing), returncode=2)


@pytest.fixture(scope="session", params=LINES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    try:
        made = make_bundle(request.param, tmp_path_factory.mktemp("page"))
    except Missing as missing:
        pytest.exit(str(missing), returncode=2)
    report.of(request.config).versions[made.line] = made.versions
    return made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(request: pytest.FixtureRequest, chromium: str) -> AsyncIterator[Browser]:
    # Chromium has no sandbox for root, who runs tests in containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        report.of(request.config).browser = f"Chromium {browser.version}"
        yield browser
        await browser.close()


@dataclass(frozen=True)
class Server:
    """The product, and what its API says to the user who is signed in."""

    product: Product
    client: Client

    async def turn(self, turn_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"{CHAT}/turns/{turn_id}")
        assert answer.status == 200, answer.body
        turn: dict[str, Any] = answer.json
        return turn

    async def ended(self, turn_id: str) -> dict[str, Any]:
        """The turn, when it is over."""
        answer = await self.client.get(f"{CHAT}/turns/{turn_id}", prefer="wait=30")
        assert answer.status == 200, answer.body
        turn: dict[str, Any] = answer.json
        return turn

    async def turns(self, thread_id: str) -> list[dict[str, Any]]:
        """Oldest first."""
        answer = await self.client.get(f"{CHAT}/threads/{thread_id}/turns?limit=100")
        items: list[dict[str, Any]] = answer.json["items"]
        return items[::-1]

    async def messages(self, thread_id: str) -> list[dict[str, Any]]:
        answer = await self.client.get(f"{CHAT}/threads/{thread_id}/messages?limit=200")
        items: list[dict[str, Any]] = answer.json["items"]
        return items

    async def said(self, thread_id: str) -> list[tuple[str, str]]:
        """Role and content of the thread's messages."""
        return [(m["role"], m["content"]) for m in await self.messages(thread_id)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _client(deployment: Product) -> Client:
    """Speaks for the user who signs in on the page."""
    deployment.settings["TURNKEEP_DRAIN_S"] = "1"
    async with Database(deployment.database_url, size=1) as database:
        tenant_id = await create_tenant(database, "Acme")
        user_id = await create_user(database, tenant_id, EMAIL, "Ann")
        await set_password(database, user_id, hash_password(PASSWORD))
        key = await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name="e2e", pepper=PEPPER.encode()
        )
    return Client(deployment.port, key)


@pytest_asyncio.fixture(loop_scope="session")
async def server(deployment: Product, _client: Client) -> Server:
    await deployment.be_whole()
    return Server(deployment, _client)


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, server: Server) -> AsyncIterator[BrowserContext]:
    """A browser's profile in which nobody is signed in."""
    context = await browser.new_context(viewport={"width": 800, "height": 900})
    context.set_default_timeout(60_000)
    yield context
    await context.close()


class Tabs:
    """Opens tabs of one profile."""

    def __init__(self, context: BrowserContext, bundle: Bundle, origin: str) -> None:
        self.context = context
        self._bundle = bundle
        self._origin = origin

    async def new(self) -> ChatPage:
        page = ChatPage(await self.context.new_page(), self._bundle, self._origin)
        await page.serve()
        return page


@pytest.fixture
def tabs(context: BrowserContext, bundle: Bundle, server: Server) -> Tabs:
    return Tabs(context, bundle, f"http://127.0.0.1:{server.product.port}")


@pytest_asyncio.fixture(loop_scope="session")
async def chat(tabs: Tabs) -> ChatPage:
    """A tab on a new thread, in which Ann has signed in."""
    page = await tabs.new()
    await page.open()
    await page.sign_in(EMAIL, PASSWORD)
    await page.until_status("ready")
    page.complaints.clear()  # that nobody was signed in
    return page
