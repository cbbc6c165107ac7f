"""A connection whose role nobody can tell does not go back to the pool."""

from __future__ import annotations

import asyncpg
import pytest

from shared.postgres.tenant import _roll_back


class Broken:
    """Stands in for a connection that is lost in mid-step: no server loses one there on demand."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.is_terminated = False

    async def execute(self, _: str, **__: float) -> None:
        raise self._error

    def terminate(self) -> None:
        self.is_terminated = True


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        asyncpg.PostgresConnectionError("the connection was lost"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_connection_that_cannot_roll_back_is_closed(error: Exception) -> None:
    connection = Broken(error)
    await _roll_back(connection)
    assert connection.is_terminated
