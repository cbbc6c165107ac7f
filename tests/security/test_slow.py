"""S15: who is slow on purpose. One test, at the real limits; short ones are in
`tests/unit/api/test_connection.py` and `tests/integration/api_crud/test_wire.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from api.body import RECEIVE_TIMEOUT_S
from api.connection import HEAD_TIMEOUT_S
from tests.security.conftest import Target, Unharmed
from tests.security.credentials import bearer
from tests.security.routes import WITH_BODY
from tests.security.surfaces import BESIDE, Front
from tests.security.wire import read, read_answer, send

IDLE = 500
SLACK_S = 3.0
_LIVEZ = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def _closed_after(
    port: int, first: bytes, drip: bytes, pause_s: float
) -> tuple[float, bytes]:
    """Seconds until the server closes, and what it said, to one who sends `drip` now and then."""
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    with socket.socket() as link:
        link.setblocking(False)
        await loop.sock_connect(link, ("127.0.0.1", port))
        reading = asyncio.create_task(read(link))
        try:
            data = first
            while not reading.done():
                with contextlib.suppress(ConnectionError):  # what was said can be read all the same
                    await loop.sock_sendall(link, data)
                await asyncio.wait([reading], timeout=pause_s)
                data = drip
            return time.monotonic() - began, reading.result()
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@pytest.mark.timeout(60)
async def test_who_does_not_get_on_is_closed_in_time(target: Target, unharmed: Unharmed) -> None:
    post = (
        WITH_BODY[0]
        .request(target.owner.place, bearer(target.owner.keys.good))
        .encode()
        .partition(b"content-length")[0]
    )
    kinds = {
        "idle": (b"", b"", 60.0),
        "a byte of the head every 5 s": (b"GET /livez HTTP/1.1\r\nx-a: ", b"a", 5.0),
        "a field every second": (b"GET /livez HTTP/1.1\r\n", b"x: a\r\n", 1.0),
        "blank lines": (b"", b"\r\n", 1.0),
        "a body that stops": (post + b"content-length: 100\r\n\r\n{", b"", 60.0),
        "a byte of the body every second": (post + b"content-length: 100\r\n\r\n", b" ", 1.0),
        "chunks of one byte": (post + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n", 1.0),
        "an endless chunk extension": (
            post + b"transfer-encoding: chunked\r\n\r\n1;", b"a" * 100, 1.0,
        ),
    }  # fmt: skip
    dialects: dict[str, Front] = {}
    for front in BESIDE:
        asked = next(asked for asked in front.asked if asked.has_body)
        ids, keys = target.owner.ids(front.name), target.owner.keys
        begun = asked.request(ids, front.credential(keys)).encode().partition(b"content-length")[0]
        kinds[front.name] = begun + b"content-length: 100\r\n\r\n{", b"", 60.0
        dialects[front.name] = front
    tasks: dict[str, asyncio.Task[tuple[float, bytes]]] = {}
    idle: list[asyncio.Task[tuple[float, bytes]]] = []
    async with asyncio.TaskGroup() as group:
        for name, (first, drip, pause_s) in kinds.items():
            tasks[name] = group.create_task(_closed_after(target.port, first, drip, pause_s))
        for _ in range(IDLE):
            idle.append(group.create_task(_closed_after(target.port, b"", b"", 60.0)))
        for _ in range(8):
            await asyncio.sleep(1)
            answer = await send(target.port, _LIVEZ)
            assert answer.status == 200
            unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)
    limit_s = max(HEAD_TIMEOUT_S, RECEIVE_TIMEOUT_S) + SLACK_S
    for name, task in tasks.items():
        took_s, said = task.result()
        assert took_s < limit_s, name
        assert said.startswith(b"HTTP/1.1 408 ") if "content-type" in str(kinds[name]) else not said
        if name in dialects:
            dialects[name].require(read_answer(said), 408, name)
    assert max(task.result()[0] for task in idle) < limit_s
