"""What an open stream costs while nothing is said on it: memory of the API, connections to Redis.

Kinds: readers of turns that run and are silent, and streams of turns that wait for a worker.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence

import psutil

from benchmarks.answers import Answer
from benchmarks.plan import Figures, Plan
from benchmarks.systems import Options, Side, System, Turnkeep

STREAMS = 2000
WARM_UP = 200
AT_ONCE = 50
SILENT_TURNS = 4
SETTLE_S = 0.8
PATIENT = (
    ("TURNKEEP_IDLE_TIMEOUT_S", "3600"),
    ("TURNKEEP_TURN_TIMEOUT_S", "3600"),
    ("TURNKEEP_STREAM_MAX_AGE_S", "3600"),
)


def measure(side: Side, plan: Plan) -> list[Figures]:
    runs: list[Figures] = []
    for _ in range(plan.runs):
        figures: Figures = {}
        with side.start(Options(workers=0)) as system:
            figures |= cost_of(system, queued_requests(system), "queued")
        if side.name == "turnkeep":
            with side.start(Options(env=PATIENT)) as system:
                assert isinstance(system, Turnkeep)  # noqa: S101 - the side of that name
                figures |= cost_of(system, silent_requests(system), "silent")
        runs.append(figures)
    return runs


def queued_requests(system: System) -> list[bytes]:
    ask = system.stream_ask()
    return [ask.render(number, "queued") for number in range(WARM_UP + STREAMS)]


def silent_requests(system: Turnkeep, count: int = WARM_UP + STREAMS) -> list[bytes]:
    """Gets of the events of a few turns that never say another word."""
    script = {"deltas": 1, "intervalMs": 0, "hangAfter": 1}
    ask = system.turn_ask("/turns", Answer(202), script)
    turns = [system.submit_one(f"silent-{number}", ask) for number in range(SILENT_TURNS)]
    requests = [system.events_request(turn_id) for turn_id in turns]
    return [requests[number % SILENT_TURNS] for number in range(count)]


def cost_of(system: System, requests: list[bytes], kind: str) -> Figures:
    api = psutil.Process(system.pids["api"])
    with open_streams(system.port, requests[:WARM_UP]):
        time.sleep(SETTLE_S)
        before = api.memory_info().rss
        clients_before = system.servers.redis_info("clients")["connected_clients"]
        with open_streams(system.port, requests[WARM_UP:]):
            time.sleep(SETTLE_S)
            after = api.memory_info().rss
            clients = system.servers.redis_info("clients")["connected_clients"]
    count = len(requests) - WARM_UP
    return {
        f"API KB/stream, {kind}": (after - before) / count / 1024,
        f"Redis connections/stream, {kind}": (clients - clients_before) / count,
        f"streams, {kind}": float(count),
    }


@contextlib.contextmanager
def open_streams(port: int, requests: Sequence[bytes]) -> Iterator[None]:
    """Streams whose heads have come, held open by plain sockets: nobody reads the rest."""
    with contextlib.ExitStack() as stack:
        for first in range(0, len(requests), AT_ONCE):
            batch = []
            for request in requests[first : first + AT_ONCE]:
                stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
                stream.sendall(request)
                batch.append(stream)
            for stream in batch:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = stream.recv(4096)
                    if not data:
                        raise ConnectionError("the server closed a stream")
                    head += data
                if b"text/event-stream" not in head:
                    raise ConnectionError(f"no stream: {head[:200]!r}")
        yield
