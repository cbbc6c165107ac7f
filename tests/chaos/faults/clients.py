"""F50, F51, F53: clients that leave at once, all leave together, or never finish a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from uuid import UUID

from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, list_api_keys, revoke_api_key
from tests.acceptance.client import Client
from tests.acceptance.product import PEPPER
from tests.acceptance.talk import CHAT, events_path, submit
from tests.chaos import history as told
from tests.chaos.arena import Arena, Evidence, Fault
from tests.chaos.workload import Reader
from tests.fixtures.waiting import wait_until

AT_ONCE = 50


async def _open_and_reset(arena: Arena) -> Evidence:
    count = arena.times(1000, 5000)
    client = arena.workload.client
    turn = await submit(client, {"deltas": 2000, "intervalMs": 20})
    request = _request(client, events_path(turn["id"]))
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(_reset(client.port, request) for _ in range(AT_ONCE)))
    followers = await _settled(client.port)
    return Evidence(count, f"{count} streams opened and reset; {followers} left open at the end")


async def _reset(port: int, request: bytes) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(request)
        await writer.drain()
        writer.transport.abort()


async def _settled(port: int) -> int:
    """Open streams of one API once no more of them end."""
    client = Client(port, None)

    async def count() -> int:
        answer = await client.get("/metrics")
        lines = answer.body.decode().splitlines()
        line = next(line for line in lines if line.startswith("turnkeep_open_streams "))
        return int(float(line.split()[1]))

    async def few() -> bool:
        return await count() <= 100  # what the load itself has open

    await wait_until(few, "reset streams are forgotten", 20)
    return await count()


async def _drop_all_streams(arena: Arena) -> Evidence:
    before = arena.workload.reconnects
    dropped = 0
    for _ in range(arena.times(5, 30)):
        for link in arena.deployment.client_links:
            dropped += link.cut()
        await asyncio.sleep(1)
    reconnects = arena.workload.reconnects - before
    return Evidence(
        dropped if reconnects else 0,
        f"{dropped} client connections cut at once; {reconnects} streams came back",
        {"reconnects": reconnects},
    )


async def _trickle(arena: Arena) -> Evidence:
    """Heads and bodies that come a byte at a time."""
    count = 250
    client = arena.workload.client
    loop = asyncio.get_running_loop()

    async def trickle(payload: bytes) -> float:
        began = loop.time()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(40):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
                writer.write(payload)
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(2):
                            await reader.read(1000)
                writer.close()
        return loop.time() - began

    head = b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: "
    body = _request(client, "/api/v1/chat/threads", method="POST", length=100_000)
    times = await asyncio.gather(*(trickle(one) for one in (head, body) for _ in range(count)))
    assert max(times) < 35, f"a connection that never finished lived {max(times):.0f} s"
    return Evidence(
        len(times),
        f"{len(times)} requests a byte at a time, each ended within {max(times):.1f} s",
        {"longest s": max(times)},
    )


def _request(client: Client, path: str, *, method: str = "GET", length: int = 0) -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {client.api_key}",
    ]
    if length:
        head += ["content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*head, "", ""]).encode()


async def _revoke(arena: Arena) -> Evidence:
    """A key is revoked while it has streams open at both APIs."""
    workload, tenant = arena.workload, arena.workload.tenant
    async with Database(arena.deployment.database_url, size=1) as database:
        secret = await create_api_key(
            database,
            tenant_id=UUID(tenant.id),
            user_id=UUID(tenant.user),
            name="soon revoked",
            pepper=PEPPER.encode(),
        )
        keys = await list_api_keys(database, UUID(tenant.id))
        key_id = next(row["id"] for row in keys if row["name"] == "soon revoked")
        turn = await submit(workload.client, {"deltas": 3000, "intervalMs": 10})
        readers = [
            asyncio.create_task(_read_once(arena, secret, str(key_id), turn["id"], api.port))
            for api in arena.deployment.apis
            for _ in range(5)
        ]
        await asyncio.sleep(1)
        began = told.now()
        assert await revoke_api_key(database, key_id)
        revoked = told.now()
        workload.history.append(
            told.Revoke(began=began, at=revoked, outcome="ok", credential=str(key_id))
        )
        ended = await asyncio.gather(*readers)
    longest_s = max(at - revoked for at in ended) / 1e9
    for api in arena.deployment.apis:
        answer = await Client(api.port, secret).get(f"{CHAT}/turns/{turn['id']}")
        assert answer.status == 401, answer.status
    await workload.client.post(f"{CHAT}/turns/{turn['id']}/cancel", {})
    seen = f"{len(ended)} streams of a revoked key closed within {longest_s:.1f} s"
    return Evidence(len(ended), seen, {"closed within s": longest_s})


async def _read_once(arena: Arena, secret: str, key_id: str, turn: str, port: int) -> int:
    workload = arena.workload
    chain = f"{turn}/{workload.next_name()}"
    reader = Reader(workload.history, workload.tenant, chain, f"{chain}/1", turn, key_id)
    await reader.read(Client(port, secret), "0-0", None)
    return told.now()


CLIENT_FAULTS = (
    Fault("F50", "streams are opened and reset at once", "client", _open_and_reset),
    Fault("F51", "all streams are dropped together", "client", _drop_all_streams),
    Fault("A03", "a key is revoked under open streams", "client", _revoke),
    Fault("F53", "requests come a byte at a time", "client", _trickle),
)
