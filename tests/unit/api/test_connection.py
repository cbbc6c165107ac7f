"""A stranger cannot make a connection keep much, or wait for long, before a head is complete."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uvicorn.protocols.http.flow_control import FlowControl

from api import connection
from api.connection import MAX_HEAD_BYTES, BoundedConnection, LeanFlow
from tests.fixtures.waiting import wait_until

carried_out: list[str] = []


async def answer(request: Request) -> PlainTextResponse:
    carried_out.append(request.method)
    return PlainTextResponse("here")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = Starlette(routes=[Route("/", answer, methods=["DELETE", "GET", "POST"])])
    config = uvicorn.Config(app, port=0, http=BoundedConnection, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, "the server listens")
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def exchange(port: int, *pieces: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def problem(answered: bytes) -> tuple[int, int]:
    """The status in the first line and the one in the body."""
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["status"]


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"


async def test_a_usual_head_passes(port: int) -> None:
    padding = b"X-Padding: " + b"a" * (MAX_HEAD_BYTES - 1000) + b"\r\n"
    assert (await exchange(port, GET + padding + CLOSE)).endswith(b"here")


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * MAX_HEAD_BYTES,
        GET + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n" + CLOSE,
        GET + b"".join(b"X-%d: 1\r\n" % i for i in range(10_000)),
        GET + b"".join(b"X-%d: 1\r\n" % i for i in range(10_000)) + CLOSE,
        GET + b"a" * (MAX_HEAD_BYTES + 1),
    ],
    ids=["endless value", "long value", "endless headers", "many headers", "endless name"],
)
async def test_a_head_without_bounds_is_refused(port: int, head: bytes) -> None:
    assert problem(await exchange(port, head)) == (431, 431)


async def test_trailers_have_the_same_bound(port: int) -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    trailers = b"".join(b"X-%d: 1\r\n" % i for i in range(10_000))
    assert b" 431 " in await exchange(port, post, trailers)


async def test_what_is_no_http_is_refused_in_our_dialect(port: int) -> None:
    assert problem(await exchange(port, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")) == (400, 400)


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked, identity\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
    ids=["coding last", "no chunks", "bad chunk"],
)
async def test_what_is_refused_is_not_carried_out(port: int, rest: bytes) -> None:
    """The parser finds these faults only after it has told us that the head is there."""
    carried_out.clear()
    assert problem(await exchange(port, b"DELETE / HTTP/1.1\r\nHost: x\r\n" + rest)) == (400, 400)
    assert (await exchange(port, GET + CLOSE)).endswith(b"here")
    assert carried_out == ["GET"]


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HT", GET], ids=repr)
async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    assert await exchange(port, begun) == b""


@pytest.mark.parametrize("begun", [b"\r\n", b"GET / HT", GET], ids=repr)
async def test_the_next_head_of_a_connection_has_the_same_time(
    port: int, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"here")
        writer.write(begun)
        assert await reader.read() == b""
    writer.close()


async def test_a_request_under_way_is_not_timed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        for _ in range(4):  # together longer than the time for one head
            writer.write(GET + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert await reader.readexactly(4) == b"here"
            await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("late", [b"a", b"a" * 1000], ids=["a piece", "all of it"])
async def test_a_body_that_comes_after_the_answer_keeps_no_connection(
    port: int, monkeypatch: pytest.MonkeyPatch, late: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await reader.readuntil(b"here")
        writer.write(late)
        assert await reader.read() == b""
    writer.close()


async def test_a_connection_that_is_over_is_freed_without_the_collector(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[BoundedConnection]] = []
    connection_made = BoundedConnection.connection_made

    def remember(self: BoundedConnection, transport: asyncio.Transport) -> None:
        made.append(weakref.ref(self))
        connection_made(self, transport)

    monkeypatch.setattr(BoundedConnection, "connection_made", remember)
    gc.collect()
    gc.disable()
    try:
        assert (await exchange(port, GET + CLOSE)).endswith(b"here")
        await wait_until(lambda: made and made[0]() is None, "it is freed")
    finally:
        gc.enable()


def test_the_lean_flow_has_all_that_the_usual_one_has() -> None:
    usual, lean = FlowControl(Mock()), LeanFlow(Mock())
    assert vars(usual).keys() == vars(lean).keys()
