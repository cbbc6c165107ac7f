"""A client that does not take its answer is closed in time; connections have a bound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from api import connection
from api.connection import BoundedConnection, StallWatch, end_when_lost
from shared.metrics import Metrics
from tests.fixtures.waiting import wait_until

LARGE = 20_000_000
"""More than the system keeps for a client that does not read."""
SEND_TIMEOUT_S = 30.0


class Serving:
    """A running server, and the watch that its own loop would ask."""

    def __init__(self, server: uvicorn.Server, app: Starlette) -> None:
        self.server = server
        self.app = app
        self.closed = 0
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self._watch = StallWatch(SEND_TIMEOUT_S, self._count)

    def _count(self) -> None:
        self.closed += 1

    @property
    def connections(self) -> list[BoundedConnection]:
        return list(cast("set[BoundedConnection]", self.server.server_state.connections))

    @property
    def untaken_bytes(self) -> int:
        return sum(one.untaken_bytes for one in self.connections)

    def look(self, now: float) -> None:
        self._watch.look(self.connections, now)


Serve = Callable[..., Any]


async def answer(_: Request) -> Response:
    return PlainTextResponse("here")


async def answer_much(_: Request) -> Response:
    return PlainTextResponse(b"x" * LARGE)


async def hold(request: Request) -> Response:
    request.app.state.held += 1
    await request.app.state.may_wait.wait()
    try:
        async with end_when_lost(request), asyncio.timeout(20):
            await asyncio.Event().wait()
    finally:
        request.app.state.held -= 1
    return PlainTextResponse("late")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        @contextlib.asynccontextmanager
        async def run(loop_options: dict[str, Any]) -> AsyncIterator[Serving]:
            paths = {"/": answer, "/much": answer_much, "/hold": hold, "/livez": answer}
            app = Starlette(routes=[Route(path, handler) for path, handler in paths.items()])
            app.state.held = 0
            app.state.may_wait = asyncio.Event()
            app.state.metrics = Metrics()
            config = uvicorn.Config(
                app, port=0, http=BoundedConnection, log_config=None, lifespan="off",
                proxy_headers=False, **loop_options,
            )  # fmt: skip
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            await wait_until(lambda: server.started, "the server listens")
            yield Serving(server, app)
            server.should_exit = server.force_exit = True
            await serving

        async def start(**options: Any) -> Serving:
            return await stack.enter_async_context(run(options))

        yield start


async def ask(port: int, path: str, *, buffer_bytes: int = 4096) -> socket.socket:
    """A request whose answer nobody reads yet."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


async def read_some(client: socket.socket, wanted: int) -> int:
    """How much came before the connection broke, `wanted` at most."""
    loop, got = asyncio.get_running_loop(), 0
    try:
        while got < wanted:
            data = await loop.sock_recv(client, 65_536)
            if not data:
                break
            got += len(data)
    except ConnectionError:
        pass
    return got


async def test_who_does_not_read_is_closed_after_the_timeout(serve: Serve) -> None:
    serving = await serve()
    client = await ask(serving.port, "/much")
    await wait_until(lambda: serving.untaken_bytes > 1_000_000, "its answer waits")
    serving.look(100.0)
    serving.look(100.0 + SEND_TIMEOUT_S - 1)
    assert not serving.closed
    serving.look(100.0 + SEND_TIMEOUT_S)
    assert serving.closed == 1
    await wait_until(lambda: not serving.connections, "it is closed")
    client.close()


async def test_who_reads_slowly_but_enough_is_not(serve: Serve) -> None:
    serving = await serve()
    client = await ask(serving.port, "/much")
    await wait_until(lambda: serving.untaken_bytes > 1_000_000, "its answer waits")
    now = 100.0
    while (before := serving.untaken_bytes) > LARGE / 4:
        serving.look(now)
        now += SEND_TIMEOUT_S * 0.9
        while serving.untaken_bytes == before:
            await read_some(client, 100_000)
            await asyncio.sleep(0)
    assert now > 100.0 + 2 * SEND_TIMEOUT_S
    assert not serving.closed
    client.close()


async def test_who_takes_little_at_a_time_is_seen_to_take_it(serve: Serve) -> None:
    # The system takes more from us in steps of 100 KB and more: what it holds counts as untaken.
    serving = await serve()
    client = await ask(serving.port, "/much")
    await wait_until(lambda: serving.untaken_bytes > 1_000_000, "its answer waits")
    now = 100.0
    for _ in range(8):
        serving.look(now)
        now += SEND_TIMEOUT_S * 0.9
        await read_some(client, 40_000)
        await asyncio.sleep(0.05)
    serving.look(now)
    assert not serving.closed
    client.close()


async def test_a_byte_now_and_then_keeps_no_answer_alive(serve: Serve) -> None:
    serving = await serve()
    client = await ask(serving.port, "/much")
    await wait_until(lambda: serving.untaken_bytes > 1_000_000, "its answer waits")
    # The client's own system takes what it has room for; then nothing but the bytes.
    for second in range(2 * int(SEND_TIMEOUT_S) + 1):
        serving.look(100.0 + second)
        await asyncio.get_running_loop().sock_recv(client, 1)
    assert serving.closed
    client.close()


async def test_an_idle_connection_is_not_stalled(serve: Serve) -> None:
    serving = await serve()
    client = await ask(serving.port, "/")
    assert await read_some(client, 50) >= 50
    for second in range(100):
        serving.look(100.0 + second)
    assert not serving.closed
    client.close()


async def test_what_waits_for_all_clients_has_a_bound(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await serve()
    clients = [await ask(serving.port, "/much") for _ in range(4)]
    await wait_until(lambda: serving.untaken_bytes > 2 * LARGE, "their answers wait")
    monkeypatch.setattr(connection, "MAX_UNTAKEN_BYTES", LARGE)
    serving.look(100.0)
    assert serving.closed >= 2
    await wait_until(lambda: serving.untaken_bytes <= LARGE, "some are closed")
    for client in clients:
        client.close()


async def exchange(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return int(status.split()[1]), headers, body


async def test_beyond_the_limit_only_what_is_vital_is_served(serve: Serve) -> None:
    serving = await serve(limit_concurrency=2)
    held = [await ask(serving.port, "/") for _ in range(2)]
    await wait_until(lambda: len(serving.connections) == 2, "they are open")
    status, headers, body = await exchange(serving.port, "/")
    assert (status, json.loads(body)["detail"]) == (503, "Too many connections")
    assert 1 <= int(headers["retry-after"]) <= 5
    assert headers["connection"] == "close"
    assert (await exchange(serving.port, "/livez"))[0] == 200
    registry = serving.app.state.metrics.registry
    assert registry.get_sample_value("turnkeep_refusals_total", {"reason": "connections"}) == 1
    held.pop().close()
    await wait_until(lambda: len(serving.connections) == 1, "there is room again")
    assert (await exchange(serving.port, "/"))[0] == 200
    held.pop().close()


@pytest.mark.parametrize(
    ("path", "is_vital"),
    [
        ("/readyz", True),
        ("/api/v1/chat/turns/1", True),
        ("/api/v1/chat/turns/1/events", False),
        ("/api/v1/chat/threads/1/turns/cancel", True),
        ("/api/v1/app/interaction/1/cancel", True),
        ("/api/v1/app/interaction/1", False),
        ("/v1/responses/resp_1", True),
        ("/v1/responses/resp_1/cancel", True),
        ("/v1/responses", False),
        ("/chat/1/message", False),
    ],
)
def test_polls_and_cancels_are_vital(path: str, is_vital: bool) -> None:
    assert (connection._VITAL.fullmatch(path.encode()) is not None) is is_vital


async def test_far_beyond_the_limit_nothing_is_said(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SPARE_CONNECTIONS", 1)
    serving = await serve(limit_concurrency=1)
    held = [(await asyncio.open_connection("127.0.0.1", serving.port))[1] for _ in range(2)]
    await wait_until(lambda: len(serving.connections) == 2, "they are open")
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    with contextlib.suppress(ConnectionResetError):  # an end or a reset
        assert await reader.read() == b""
    writer.close()
    for client in held:
        client.close()


@pytest.mark.parametrize("is_early", [True, False], ids=["before it waits", "while it waits"])
async def test_a_request_that_waits_ends_with_its_client(serve: Serve, is_early: bool) -> None:
    serving = await serve()
    state = serving.app.state
    clients = [await ask(serving.port, "/hold") for _ in range(20)]
    await wait_until(lambda: state.held == 20, "all have come")
    if not is_early:
        state.may_wait.set()
        await wait_until(lambda: all(one.on_lost for one in serving.connections), "all wait")
    for client in clients:
        linger = b"\x01\0\0\0\0\0\0\0"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
    if is_early:
        await wait_until(lambda: not serving.connections, "all have gone")
        state.may_wait.set()
    await wait_until(lambda: state.held == 0, "none waits any more", 5)
