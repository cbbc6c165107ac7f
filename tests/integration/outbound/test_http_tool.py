"""The agents' `http_request` reaches what the guard lets it reach, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from shared.ids import new_id
from shared.outbound.client import GuardedClient, OutboundResponse
from shared.outbound.url_rules import OutboundRules
from tests.integration.outbound.tenant_server import Authority, TenantServer, tenant_server
from tests.integration.outbound.test_client import NAME, Names, answer, loopback_is_public, url
from tests.unit.tools.test_tools import CONTEXT
from worker.tools import http_request
from worker.tools.base import ToolContext, ToolFailed, call_tool
from worker.tools.http_request import MAX_BODY_BYTES, HttpRequest
from worker.tools.shares import TenantShares


async def ask(client: GuardedClient, address: str, **more: str) -> Any:
    context = replace(CONTEXT, outbound=client)
    return await call_tool(HttpRequest(), context, {"url": address, **more}, timeout_s=5)


@pytest.fixture
async def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[TenantServer, GuardedClient]]:
    authority = Authority.make(tmp_path_factory.mktemp("authority"))
    async with tenant_server(authority.server_context(NAME)) as tenant:
        rules = OutboundRules(ports=frozenset({tenant.port}), address_rule=loopback_is_public)
        async with GuardedClient(
            rules, resolver=Names(), ssl_context=authority.client_context()
        ) as client:
            yield tenant, client


async def test_a_page_is_read_up_to_its_bound(server: tuple[TenantServer, GuardedClient]) -> None:
    tenant, client = server
    tenant.answers["/a"] = answer(200, b"hello", content_type="text/plain", set_cookie="s=1")
    told = await ask(client, url(tenant, "/a"), accept="text/plain")
    assert told == {
        "status": 200, "headers": {"content-type": "text/plain"}, "body": "hello",
        "isTruncated": False, "url": url(tenant, "/a"),
    }  # fmt: skip
    tenant.answers["/big"] = answer(200, b"x" * (MAX_BODY_BYTES + 1))
    told = await ask(client, url(tenant, "/big"))
    assert (len(told["body"]), told["isTruncated"]) == (MAX_BODY_BYTES, True)
    tenant.answers["/bytes"] = answer(200, b"\0\1\2")
    assert "no text" in (await ask(client, url(tenant, "/bytes")))["body"]
    tenant.answers["/in"] = answer(302, location="https://127.0.0.2/")
    with pytest.raises(ToolFailed):
        await ask(client, url(tenant, "/in"))


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/",
        "https://169.254.169.254/latest/meta-data/", "https://10.0.0.1/", "https://2130706433/",
        "file:///etc/passwd", "https://user:secret@example.org/", "https://example.org:22/",
    ],
)  # fmt: skip
async def test_our_network_is_not_reached(address: str) -> None:
    async with GuardedClient() as client:
        with pytest.raises(ToolFailed) as refused:
            await ask(client, address)
    assert "127.0.0.1" not in str(refused.value)


async def test_nothing_is_sent_but_questions() -> None:
    async with GuardedClient() as client:
        with pytest.raises(ToolFailed, match="method"):
            await ask(client, "https://example.org/", method="POST")


class SlowServers:
    """Stands where the guarded client does: answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.left_s: list[float] = []
        self.may_answer = asyncio.Event()

    async def request(self, *_: Any, total_timeout_s: float, **__: Any) -> Any:
        self.asked += 1
        self.left_s.append(total_timeout_s)
        await self.may_answer.wait()
        return OutboundResponse(200, {}, b"hello", False, "https://example.org/")


def context_of(servers: SlowServers, shares: TenantShares) -> ToolContext:
    outbound: Any = servers
    return replace(CONTEXT, tenant_id=new_id(), outbound=outbound, outbound_shares=shares)


async def call(context: ToolContext) -> Any:
    arguments = {"url": "https://example.org/"}
    return await call_tool(HttpRequest(), context, arguments, timeout_s=20)


async def test_a_tenant_has_its_share_and_no_more() -> None:
    """The others of a process are not kept waiting by one that asks for everything."""
    servers, shares = SlowServers(), TenantShares(2)
    greedy, modest = context_of(servers, shares), context_of(servers, shares)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(call(greedy)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert servers.asked == 2
        calls.append(group.create_task(call(modest)))
        await asyncio.sleep(0.05)
        assert servers.asked == 3
        servers.may_answer.set()
    assert [task.result()["status"] for task in calls] == [200] * 6
    assert shares._shares == {}, "nothing is kept of who has left"


async def test_waiting_counts_against_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_request, "TIMEOUT_S", 3.0)
    servers, shares = SlowServers(), TenantShares(1)
    context = context_of(servers, shares)
    first = asyncio.create_task(call(context))
    await asyncio.sleep(0.05)
    with pytest.raises(ToolFailed, match="Too many requests"):
        await call(context)
    second = asyncio.create_task(call(context))
    await asyncio.sleep(0.6)
    servers.may_answer.set()
    await asyncio.gather(first, second)
    assert servers.left_s[0] > 2.5
    assert 0 < servers.left_s[1] < 2.5
    assert shares._shares == {}
