"""Who runs next: lines per concurrency key, one ready set, the generation.

Nothing here decides anything: a claim in Postgres does. Everything here can be rebuilt from there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

from shared.redis.connection import Argument, RedisConnection
from shared.redis.keys import DISPATCH_TTL_S, GENERATION_TTL_S, Keys
from shared.redis.scripts import load_script, script_names
from shared.turn.model import ClaimedTurn, Turn

_RUN_ID_PREFIX: Final = b"run_id:"


@dataclass(frozen=True, slots=True)
class LineChange:
    """What is new on one concurrency key. `waiting` maps turn → accept_seq."""

    tenant_id: UUID
    concurrency_key: str
    max_running: int
    over: list[UUID] = field(default_factory=list)
    running: list[UUID] = field(default_factory=list)
    waiting: dict[UUID, int] = field(default_factory=dict)
    reset: bool = False

    @classmethod
    def of_ended(cls, turn: Turn | ClaimedTurn) -> Self:
        """The turn holds no slot any more, and waits for none."""
        return cls(turn.tenant_id, turn.concurrency_key, turn.max_running, over=[turn.id])

    @classmethod
    def of_returned(cls, turn: Turn | ClaimedTurn) -> Self:
        """The turn holds no slot any more, and waits again where it stood in its line."""
        waiting = {turn.id: turn.accept_seq}
        return cls(
            turn.tenant_id, turn.concurrency_key, turn.max_running, over=[turn.id], waiting=waiting
        )


@dataclass(frozen=True, slots=True)
class ReadyTurns:
    """Turns taken off the ready set, and the generation read before or in the same step."""

    generation: str
    turn_ids: list[UUID]


class CommandConnection(RedisConnection):
    """A connection that distrusts the state of a restarted or promoted Redis.

    It brings all scripts along, so that `Script.send` finds them.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        super().__init__(url)
        self._keys = keys
        self._guard = load_script("guard_generation")

    async def _greet(self) -> None:
        info = await self._send("INFO", "server")
        run_id = _read_run_id(info)
        await self._send("EVAL", self._guard.body, 1, self._keys.generation, run_id)
        for name in script_names():
            await self._send("SCRIPT", "LOAD", load_script(name).body)


class Dispatch:
    """Dispatch over one connection. Raises as `RedisConnection.call`."""

    def __init__(self, connection: RedisConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._settle = load_script("settle_line")
        self._take = load_script("take_ready")

    async def settle(self, change: LineChange) -> int:
        """Applies a change to one line; returns how many turns became ready."""
        return int(await self._settle.run(self._connection, *self._settle_call(change)))

    def send_settle(self, change: LineChange) -> asyncio.Future[Any]:
        """As `settle`, see `RedisConnection.send`."""
        return self._settle.send(self._connection, *self._settle_call(change))

    def _settle_call(self, change: LineChange) -> tuple[tuple[str, ...], tuple[Argument, ...]]:
        keys = self._keys
        line = keys.line(change.tenant_id, change.concurrency_key)
        busy = keys.busy(change.tenant_id, change.concurrency_key)
        return (
            (line, busy, keys.ready, keys.clock, keys.tags),
            (
                str(change.tenant_id),
                change.max_running,
                _join(change.over),
                _join(change.running),
                " ".join(f"{seq}:{turn_id}" for turn_id, seq in change.waiting.items()),
                "1" if change.reset else "0",
                DISPATCH_TTL_S,
            ),
        )

    async def take_ready(self, most: int) -> ReadyTurns | None:
        """Up to `most` ready turns; None when Redis has lost its state."""
        keys = self._keys
        reply = await self._take.run(
            self._connection,
            (keys.generation, keys.ready, keys.clock),
            (most, DISPATCH_TTL_S),
        )
        if not reply:
            return None
        return ReadyTurns(reply[0].decode(), [UUID(item.decode()) for item in reply[1:]])

    async def return_ready(self, ready: ReadyTurns) -> None:
        """Puts turns back at the head: who took them leaves."""
        keys = self._keys
        now = await self._connection.call("GET", keys.clock) or b"0"
        for turn_id in ready.turn_ids:
            await self._connection.call("ZADD", keys.ready, now, str(turn_id))
        await self._connection.call("EXPIRE", keys.ready, DISPATCH_TTL_S)

    async def read_generation(self) -> str | None:
        """The present generation, or None when Redis has lost its state."""
        reply = await self._connection.call("GET", self._keys.generation)
        return None if reply is None else reply.decode()

    async def begin_generation(self) -> str:
        """Makes a generation unless there is one. Only after a rebuild from Postgres."""
        run_id = _read_run_id(await self._connection.call("INFO", "server"))
        token = f"{run_id}:{secrets.token_hex(8)}"
        await self._connection.call(
            "SET", self._keys.generation, token, "NX", "EX", GENERATION_TTL_S
        )
        return await self.read_generation() or token

    async def keep_generation(self) -> bool:
        """Prolongs the generation; False when there is none."""
        return bool(await self._connection.call("EXPIRE", self._keys.generation, GENERATION_TTL_S))


class IdleConnection(RedisConnection):
    """The connection on which an idle worker waits to be handed a turn."""

    _client_id = 0

    async def _greet(self) -> None:
        self._client_id = await self._send("CLIENT", "ID")

    async def take_one(self, keys: Keys, generation: str, timeout_s: int) -> ReadyTurns | None:
        """The next turn that becomes ready; None when none does in time.

        One round trip less than to be woken and to ask. `generation` was read before, which is as
        good: a log is opened under it only if it is still the present one.
        """
        reply = await self.call("BZPOPMIN", keys.ready, timeout_s)
        if reply is None:
            return None
        _, turn_id, start = reply
        self.send("SET", keys.clock, start, "EX", DISPATCH_TTL_S)
        return ReadyTurns(generation, [UUID(turn_id.decode())])

    async def stop_waiting(self, connection: RedisConnection) -> None:
        """Makes `take_one` return at once. Raises as `RedisConnection.call`."""
        if self.is_ready:
            await connection.call("CLIENT", "UNBLOCK", self._client_id)


def _join(turn_ids: Iterable[UUID]) -> str:
    return " ".join(str(turn_id) for turn_id in turn_ids)


def _read_run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(_RUN_ID_PREFIX):
            return line.removeprefix(_RUN_ID_PREFIX).decode()
    return "unknown"
