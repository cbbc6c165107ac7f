"""The guarded client against a server on loopback that a tenant could have written."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from ipaddress import ip_address
from pathlib import Path

import httpcore
import pytest

from shared.outbound.address_rules import IPAddress, require_public
from shared.outbound.client import BODY_BYTES_CAP, GuardedClient
from shared.outbound.errors import (
    AddressRefused,
    BadAnswer,
    OutboundFailed,
    RedirectRefused,
    RequestRefused,
    TimedOut,
    TlsFailed,
    Unreachable,
    UrlRefused,
)
from shared.outbound.network import BoundedStream, GuardedNetwork
from shared.outbound.url_rules import OutboundRules
from tests.integration.outbound.tenant_server import Authority, TenantServer, tenant_server

NAME, OTHER = "hooks.example.com", "other.example.com"
LOOPBACK = ip_address("127.0.0.1")
ClientFactory = Callable[..., GuardedClient]


class Names:
    """A resolver: each question for a name takes the next of its answers, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked.append(name)
        answers = self.answers.get(name, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def loopback_is_public(address: IPAddress, own_addresses: Collection[IPAddress]) -> None:
    """127.0.0.1 stands for a public host, the rest of loopback for our network."""
    if address != LOOPBACK:
        require_public(address, own_addresses)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def tenant(authority: Authority) -> AsyncIterator[TenantServer]:
    async with tenant_server(authority.server_context(NAME, OTHER)) as server:
        yield server


@pytest.fixture
async def client_for(authority: Authority, tenant: TenantServer) -> AsyncIterator[ClientFactory]:
    clients: list[GuardedClient] = []

    def make(resolver: Names | None = None, **rules: object) -> GuardedClient:
        settings = {"ports": {tenant.port}, "address_rule": loopback_is_public} | rules
        client = GuardedClient(
            OutboundRules(**settings),  # type: ignore[arg-type]
            resolver=resolver or Names(),
            ssl_context=authority.client_context(),
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.__aexit__(None, None, None)


@pytest.fixture
def client(client_for: ClientFactory) -> GuardedClient:
    return client_for()


def url(tenant: TenantServer, path: str = "/", name: str = NAME) -> str:
    return f"https://{name}:{tenant.port}{path}"


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    lines.append(f"content-length: {len(body)}\r\n")
    head = f"HTTP/1.1 {status} Banner 10.1.2.3\r\n{''.join(lines)}\r\n"
    return head.encode() + body


async def test_a_request_carries_the_name_and_says_what_it_must(
    client: GuardedClient, tenant: TenantServer
) -> None:
    tenant.answers["/hook?x=1"] = answer(201, b"thanks", x_kind="test")
    response = await client.request(
        "POST", url(tenant, "/hook?x=1"), headers={"Webhook-Id": "m"}, content=b"{}"
    )
    assert (response.status, response.body, response.is_truncated) == (201, b"thanks", False)
    assert response.headers["x-kind"] == "test"
    assert response.summary == "201 success"
    [request] = tenant.requests
    assert request.line == "POST /hook?x=1 HTTP/1.1"
    assert (request.sni, request.body) == (NAME, b"{}")
    assert request.headers == {
        "host": f"{NAME}:{tenant.port}",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "2",
        "webhook-id": "m",
    }


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.2"],
        ["127.0.0.1", "fd00::1"],
        ["127.0.0.1", "169.254.169.254"],
        ["127.0.0.1", "::ffff:127.0.0.1"],
        ["::1"],
        ["not an address"],
        [],
        ["127.0.0.1"] + [f"8.8.{n}.8" for n in range(64)],
    ],
    ids=str,
)
async def test_every_answer_must_be_public(
    client_for: ClientFactory, tenant: TenantServer, answers: list[str]
) -> None:
    client = client_for(Names(hooks_example_com=[answers]))
    with pytest.raises(Unreachable):
        await client.request("GET", url(tenant))
    assert tenant.connections == 0


async def test_the_default_rule_lets_nobody_reach_loopback(
    client_for: ClientFactory, tenant: TenantServer
) -> None:
    client = client_for(address_rule=require_public)
    with pytest.raises(Unreachable):
        await client.request("GET", url(tenant))
    with pytest.raises(UrlRefused):
        await client.request("GET", f"https://127.0.0.1:{tenant.port}/")
    assert tenant.connections == 0


async def test_our_own_address_is_refused_at_send(
    client_for: ClientFactory, tenant: TenantServer
) -> None:
    names = Names(hooks_example_com=[["8.8.8.8"]])
    client = client_for(names, own_addresses={ip_address("8.8.8.8")})
    with pytest.raises(Unreachable) as failed:
        await client.request("GET", url(tenant))
    assert "our own" in failed.value.detail


async def test_a_name_that_rebinds_is_resolved_once_per_request(
    client_for: ClientFactory, authority: Authority, tenant: TenantServer
) -> None:
    names = Names(hooks_example_com=[["127.0.0.1"], ["127.0.0.2"]])
    client = client_for(names)
    assert (await client.request("GET", url(tenant))).status == 200
    assert names.asked == [NAME]
    with pytest.raises(Unreachable):
        await client.request("GET", url(tenant))
    assert names.asked == [NAME, NAME]
    assert tenant.connections == 1


async def test_a_connection_that_ends_elsewhere_is_not_used(tenant: TenantServer) -> None:
    checks: list[IPAddress] = []

    def refuse_the_second(address: IPAddress, _: Collection[IPAddress]) -> None:
        checks.append(address)
        if len(checks) > 1:
            raise AddressRefused("test")

    network = GuardedNetwork(OutboundRules(address_rule=refuse_the_second), Names())
    with pytest.raises(Unreachable):
        await network.connect_tcp(NAME, tenant.port)
    assert checks == [LOOPBACK, LOOPBACK]


async def test_a_peer_other_than_the_checked_address_is_refused(
    tenant: TenantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = GuardedNetwork(OutboundRules(address_rule=lambda *_: None), Names())
    connect = network._network.connect_tcp

    async def connect_elsewhere(
        host: str,
        port: int,
        timeout: float,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        assert host == "8.8.8.8"
        return await connect("127.0.0.1", port, timeout)

    monkeypatch.setattr(network._network, "connect_tcp", connect_elsewhere)
    with pytest.raises(Unreachable, match="cannot be reached"):
        await network.connect_tcp("8.8.8.8", tenant.port)


async def test_the_next_checked_address_is_tried(
    client_for: ClientFactory, tenant: TenantServer
) -> None:
    names = Names(hooks_example_com=[["127.0.0.9", "127.0.0.1"]])
    client = client_for(names, address_rule=lambda *_: None)
    assert (await client.request("GET", url(tenant))).status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed_unless_asked(
    client: GuardedClient, tenant: TenantServer, status: int
) -> None:
    tenant.answers["/"] = answer(status, location="/next")
    response = await client.request("POST", url(tenant), content=b"x")
    assert response.summary == f"{status} redirect"
    assert len(tenant.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.2:{port}/", "https://[::1]:{port}/", "https://169.254.169.254/",
        "http://hooks.example.com:{port}/", "file:///etc/passwd", "gopher://hooks.example.com:{port}/_",
        "https://a@hooks.example.com:{port}/", "https://hooks.example.com:22/", "\\\\127.0.0.1",
        "//2130706433:{port}/",
    ],
)  # fmt: skip
async def test_a_redirect_that_breaks_a_rule_is_not_followed(
    client: GuardedClient, tenant: TenantServer, location: str
) -> None:
    tenant.answers["/"] = answer(302, location=location.format(port=tenant.port))
    with pytest.raises(RedirectRefused):
        await client.request("GET", url(tenant), follow_redirects=3)
    assert tenant.connections == 1


async def test_a_redirect_to_a_name_that_leads_inside_is_not_followed(
    client_for: ClientFactory, tenant: TenantServer
) -> None:
    client = client_for(Names(other_example_com=[["127.0.0.2"]]))
    tenant.answers["/"] = answer(302, location=url(tenant, name=OTHER))
    with pytest.raises(Unreachable):
        await client.request("GET", url(tenant), follow_redirects=3)
    assert tenant.connections == 1


async def test_each_hop_is_resolved_anew(client_for: ClientFactory, tenant: TenantServer) -> None:
    client = client_for(Names(hooks_example_com=[["127.0.0.1"], ["127.0.0.2"]]))
    tenant.answers["/"] = answer(302, location="/next")
    with pytest.raises(Unreachable):
        await client.request("GET", url(tenant), follow_redirects=3)
    assert tenant.connections == 1


async def test_three_redirects_and_no_more(client: GuardedClient, tenant: TenantServer) -> None:
    for step in range(20):
        tenant.answers[f"/{step}"] = answer(302, location=f"/{step + 1}")
    response = await client.request("GET", url(tenant, "/17"), follow_redirects=3)
    assert (response.status, response.url) == (200, url(tenant, "/20"))
    tenant.requests.clear()
    with pytest.raises(RedirectRefused):
        await client.request("GET", url(tenant, "/0"), follow_redirects=3)
    assert [request.path for request in tenant.requests] == ["/0", "/1", "/2", "/3"]


async def test_credentials_do_not_reach_another_host(
    client: GuardedClient, tenant: TenantServer
) -> None:
    headers = {"Authorization": "Bearer s", "Cookie": "s", "X-Api-Key": "s", "Accept": "text/html"}
    tenant.answers["/"] = answer(302, location="/same")
    tenant.answers["/same"] = answer(307, location=url(tenant, "/there", OTHER))
    await client.request("GET", url(tenant), headers=headers, follow_redirects=3)
    first, same, there = tenant.requests
    assert first.headers == same.headers
    assert same.headers["authorization"] == "Bearer s"
    assert there.sni == OTHER
    assert there.headers == {
        "host": f"{OTHER}:{tenant.port}",
        "accept-encoding": "identity",
        "connection": "close",
        "accept": "text/html",
    }


async def test_a_body_does_not_reach_another_host(
    client: GuardedClient, tenant: TenantServer
) -> None:
    tenant.answers["/"] = answer(307, location=url(tenant, "/there", OTHER))
    with pytest.raises(RedirectRefused):
        await client.request("POST", url(tenant), content=b"secret", follow_redirects=1)
    assert tenant.connections == 1


async def test_a_post_becomes_a_get_without_its_body(
    client: GuardedClient, tenant: TenantServer
) -> None:
    tenant.answers["/"] = answer(303, location="/there")
    await client.request(
        "POST", url(tenant), headers={"Content-Type": "a/b"}, content=b"x", follow_redirects=1
    )
    there = tenant.requests[1]
    assert (there.line, there.body) == ("GET /there HTTP/1.1", b"")
    assert "content-type" not in there.headers


async def test_one_byte_a_second_ends_with_the_total_time(
    client: GuardedClient, tenant: TenantServer
) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    tenant.answers["/"] = drip
    started = time.monotonic()
    with pytest.raises(TimedOut):
        await client.request("GET", url(tenant), total_timeout_s=0.6)
    assert time.monotonic() - started < 2


async def test_a_head_that_drips_and_a_server_that_is_mute_end_with_the_total_time(
    client: GuardedClient, tenant: TenantServer
) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def be_mute(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    tenant.answers |= {"/drip": drip, "/mute": be_mute}
    for path in ("/drip", "/mute"):
        with pytest.raises(TimedOut):
            await client.request("GET", url(tenant, path), total_timeout_s=0.4)


async def test_a_slow_resolver_ends_with_the_total_time(
    authority: Authority, tenant: TenantServer
) -> None:
    async def hang(name: str, port: int) -> Sequence[str]:
        await asyncio.sleep(30)
        return []

    rules = OutboundRules(ports={tenant.port})
    async with GuardedClient(rules, resolver=hang) as client:
        with pytest.raises(TimedOut):
            await client.request("GET", url(tenant), total_timeout_s=0.2)


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_of_ten_gigabytes_the_first_64_kilobytes_are_read(
    client: GuardedClient, tenant: TenantServer, is_chunked: bool
) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        framing = b"transfer-encoding: chunked" if is_chunked else b"content-length: 10737418240"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        block = b"x" * 65_536
        while True:
            writer.write(b"10000\r\n" + block + b"\r\n" if is_chunked else block)
            await writer.drain()
            sent += len(block)

    tenant.answers["/"] = flood
    response = await client.request("GET", url(tenant))
    assert (len(response.body), response.is_truncated, response.status) == (65_536, True, 200)
    assert sent < 32 * 1_048_576  # what the sockets' buffers hold
    response = await client.request("GET", url(tenant), max_body_bytes=10)
    assert (response.body, response.is_truncated) == (b"x" * 10, True)


async def test_a_body_as_long_as_the_limit_is_whole(
    client: GuardedClient, tenant: TenantServer
) -> None:
    tenant.answers["/"] = answer(200, b"x" * 65_536)
    response = await client.request("GET", url(tenant))
    assert (len(response.body), response.is_truncated) == (65_536, False)


async def test_a_gzip_bomb_stays_packed(client: GuardedClient, tenant: TenantServer) -> None:
    bomb = gzip.compress(bytes(20 * 1_048_576))
    assert len(bomb) < 65_536
    tenant.answers["/"] = answer(200, bomb, content_encoding="gzip")
    response = await client.request("GET", url(tenant))
    assert response.body == bomb
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "endless",
    [b"a: b\r\n", b"x" * 1000, b"\r\nHTTP/1.1 103 Early\r\na: b\r\n"],
    ids=["headers", "one header", "informational answers"],
)
async def test_endless_headers_end(
    client: GuardedClient, tenant: TenantServer, endless: bytes
) -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early\r\n")
        while True:
            writer.write(endless * 100)
            await writer.drain()

    tenant.answers["/"] = flood
    with pytest.raises(BadAnswer):
        await client.request("GET", url(tenant))


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"+PONG\r\n", b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nxxxxxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_not_http_is_a_bad_answer_without_its_banner(
    client: GuardedClient, tenant: TenantServer, garbage: bytes
) -> None:
    tenant.answers["/"] = garbage
    with pytest.raises(BadAnswer) as failed:
        await client.request("GET", url(tenant))
    assert str(failed.value) == BadAnswer.reason


@pytest.mark.parametrize("case", ["name", "expired", "unknown authority"])
async def test_a_bad_certificate_ends_the_request(
    client_for: ClientFactory, authority: Authority, tmp_path: Path, case: str
) -> None:
    contexts = {
        "name": authority.server_context("elsewhere.example.com"),
        "expired": authority.server_context(NAME, days=-1),
        "unknown authority": Authority.make(tmp_path).server_context(NAME),
    }
    async with tenant_server(contexts[case]) as bad:
        client = client_for(ports={bad.port})
        with pytest.raises(TlsFailed):
            await client.request("POST", url(bad), content=b"secret", total_timeout_s=5)
        assert not bad.requests


async def test_a_server_without_tls_gets_nothing(client_for: ClientFactory) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.internal ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TlsFailed) as failed:
            await client_for(ports={port}).request("GET", f"https://{NAME}:{port}/")
    assert str(failed.value) == TlsFailed.reason


async def test_a_tenant_learns_nothing_of_addresses_and_banners(
    client_for: ClientFactory, tenant: TenantServer
) -> None:
    """A name that is unknown, one that leads inside and a closed port look alike."""
    told = set()
    for answers in ([], ["10.9.8.7"], ["127.0.0.1"]):
        client = client_for(Names(hooks_example_com=[answers]), ports={1})
        with pytest.raises(OutboundFailed) as failed:
            await client.request("GET", f"https://{NAME}:1/")
        told.add((type(failed.value), failed.value.code, str(failed.value)))
    assert told == {(Unreachable, Unreachable.code, Unreachable.reason)}
    tenant.answers["/"] = answer(500, b"internal banner")
    response = await client_for().request("GET", url(tenant))
    assert response.summary == "500 server error"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"}, {"host": "localhost"}, {"Content-Length": "1"}, {"Connection": "x"},
        {"Transfer-Encoding": "chunked"}, {"Accept-Encoding": "gzip"}, {"Proxy-Authorization": "x"},
        {"X": "a\r\nHost: b"}, {"X": "a\x00"}, {"X\r\nY": "a"}, {"X ": "a"}, {"": "a"}, {"X": " a"},
        {"A": "1", "a": "2"}, {"X": "ü"}, {"X": "x" * 20_000}, {f"x-{n}": "" for n in range(65)},
    ],
)  # fmt: skip
async def test_headers_that_are_not_the_tenant_s_to_set(
    client: GuardedClient, tenant: TenantServer, headers: dict[str, str]
) -> None:
    with pytest.raises(RequestRefused):
        await client.request("GET", url(tenant), headers=headers)
    assert tenant.connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "GET /x HTTP/1.1\r\nA:", ""])
async def test_methods_that_are_not_allowed(
    client: GuardedClient, tenant: TenantServer, method: str
) -> None:
    with pytest.raises(RequestRefused):
        await client.request(method, url(tenant))


async def test_limits_cannot_be_set_beyond_theirs(
    client: GuardedClient, tenant: TenantServer
) -> None:
    with pytest.raises(ValueError, match="follow_redirects"):
        await client.request("GET", url(tenant), follow_redirects=4)
    with pytest.raises(ValueError, match="max_body_bytes"):
        await client.request("GET", url(tenant), max_body_bytes=BODY_BYTES_CAP + 1)


async def test_proxies_of_the_environment_are_not_used(
    client_for: ClientFactory, tenant: TenantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await client_for().request("GET", url(tenant))).status == 200


async def test_an_egress_proxy_resolves_in_our_place(
    authority: Authority, tenant: TenantServer
) -> None:
    """The proxy gets the name; literal private addresses never reach it."""
    heads: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        onward, back = await asyncio.open_connection("127.0.0.1", tenant.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, back))
            group.create_task(_copy(onward, writer))

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with (
        proxy,
        GuardedClient(
            OutboundRules(ports={tenant.port}),
            proxy_url=f"http://user:p%40ss@127.0.0.1:{port}",
            ssl_context=authority.client_context(),
        ) as client,
    ):
        assert (await client.request("GET", url(tenant))).status == 200
        with pytest.raises(UrlRefused):
            await client.request("GET", f"https://127.0.0.1:{tenant.port}/")
    [head] = heads
    assert head.startswith(f"CONNECT {NAME}:{tenant.port} HTTP/1.1\r\n".encode())
    assert b"Basic dXNlcjpwQHNz\r\n" in head
    assert tenant.requests[0].sni == NAME


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_a_stream_ends_after_its_allowance() -> None:
    stream = BoundedStream(httpcore.AsyncMockStream([b"x" * 10, b"x"]), 10)
    assert await stream.read(100) == b"x" * 10
    with pytest.raises(BadAnswer):
        await stream.read(100)


async def test_the_system_s_resolver_answers_for_both_families_and_is_checked() -> None:
    async with GuardedClient() as client:
        with pytest.raises(Unreachable):
            await client.request("GET", "https://name.that.does.not.exist.example/")
