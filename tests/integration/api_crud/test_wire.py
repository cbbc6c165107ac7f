"""Bodies on a real socket: too large, too slow, never sent. The connection does not linger."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette

from api import body
from tests.fixtures.waiting import wait_until
from tests.integration.api_crud.conftest import THREADS, Client


@pytest.fixture
async def port(app: Starlette) -> AsyncIterator[int]:
    """Where uvicorn serves the application."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="off", http="httptools")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        await wait_until(lambda: server.started, "uvicorn serves")
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


async def exchange(port: int, secret: str, *parts: bytes, patience_s: float = 5.0) -> bytes:
    """Everything the server says to a POST until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {THREADS} HTTP/1.1\r\nhost: x\r\nx-api-key: {secret}\r\n"
        "content-type: application/json\r\n".encode()
    )
    for part in parts:
        writer.write(part)
    async with asyncio.timeout(patience_s):
        answer = await reader.read()
    writer.close()
    return answer


async def test_ten_gigabytes_are_refused_unread(port: int, client: Client) -> None:
    answer = await exchange(port, client.secret, b"content-length: 10000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Request too large" in answer


async def test_endless_chunks_are_refused(port: int, client: Client) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    answer = await exchange(
        port, client.secret, b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 17
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_never_comes(
    port: int, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "RECEIVE_TIMEOUT_S", 0.1)
    answer = await exchange(port, client.secret, b'content-length: 10\r\n\r\n{"a"')
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: -1\r\n\r\n",
        b"content-length: 1e3\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n{}",
        b"x-bad: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
async def test_ambiguous_framing_is_refused(port: int, client: Client, head: bytes) -> None:
    answer = await exchange(port, client.secret, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
