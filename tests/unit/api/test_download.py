"""A download ends, however slowly its client takes it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import Mock

import pytest

from api.artifacts import content
from api.artifacts.content import FileResponse
from api.connection import CONNECTION

PIECES = [b"x" * 1000] * 10


async def send_to(client: Any, connection: Any) -> AsyncExitStack:
    """Sends the pieces to a client; what must be given back."""

    async def pieces() -> Any:
        for piece in PIECES:
            yield piece

    opened = AsyncExitStack()
    given_back = Mock()
    opened.callback(given_back)
    response = FileResponse(opened, pieces(), size_bytes=10_000, headers={})
    await response({"type": "http", "method": "GET", CONNECTION: connection}, Mock(), client)
    given_back.assert_called_once()
    return opened


async def test_a_slow_client_is_closed_and_gives_its_seat_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(content, "GRACE_S", 0.05)
    monkeypatch.setattr(content, "MIN_BYTES_PER_S", 100_000)  # 0.1 s for all
    sent: list[Any] = []

    async def take_slowly(message: Any) -> None:
        await asyncio.sleep(0.03)
        sent.append(message)

    connection = Mock()
    await send_to(take_slowly, connection)
    connection.transport.abort.assert_called_once()
    assert len(sent) < len(PIECES)


async def test_one_that_takes_it_in_time_gets_all_of_it() -> None:
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    connection = Mock()
    await send_to(take, connection)
    connection.transport.abort.assert_not_called()
    assert b"".join(message.get("body", b"") for message in sent) == b"".join(PIECES)
