"""Turnkeep beside Aegra, a self-hosted server of LangGraph runs, for orientation.

The same Postgres and Valkey, 50 deltas a turn without a model, one API process and one worker. Not
like for like: Aegra runs a graph, keeps a thread's state in checkpoints and asks for no key.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.answers import Answer, Ask
from benchmarks.environment import find_aegra_python
from benchmarks.plan import Figures, Plan
from benchmarks.recorder import run_async
from benchmarks.scenarios import first_delta, gets, streams
from benchmarks.scenarios.peers import running
from benchmarks.servers import Servers, await_port, fetch
from benchmarks.systems import Side, System, count_members
from deploy.configuration import free_port

CONFIGURATION = Path(__file__).parent.parent / "peers" / "aegra" / "aegra.json"
CONNECTIONS = 16
LONGEST_RUN_S = 3.0
SAMPLES_PER_RUN = 20
DELTAS = 50
THREADS = 5_000
START_PATIENCE_S = 60.0
LOOPS_PER_PROCESS = {"api": "0", "worker": "3"}
"""Aegra's worker is its API with loops that take runs: 3, with 10 runs each, is its default."""
TURN = {
    "assistant_id": "deltas",
    "input": {"messages": [{"role": "user", "content": "hello world, tell me a story"}]},
    "stream_mode": "custom",
    "on_disconnect": "continue",
}


@dataclass
class Aegra:
    """One API process and one worker process; a turn is a run, its id `THREAD/runs/RUN`."""

    port: int
    dsn: str
    servers: Servers
    threads: tuple[str, ...]
    pids: dict[str, int]
    name: str = "aegra"

    def stream_ask(self) -> Ask:
        texts = tuple(f'w{number} "' for number in range(DELTAS))
        return self._run_ask("/runs/stream", Answer(200, '"delta":"', texts, "event: end"))

    def submit_ask(self) -> Ask:
        return self._run_ask("/runs", Answer(200, end='"pending"'))

    def _run_ask(self, tail: str, answer: Answer) -> Ask:
        body = json.dumps(TURN)
        return Ask("POST", "/threads/", answer, ids=self.threads, path_tail=tail, body=body)

    def get_asks(self, run_name: str) -> dict[str, Ask]:
        run = self._finish_run()
        return {"finished": Ask("GET", f"/threads/{run}", Answer(200, end='"success"'))}

    def cancel_ask(self, turn_id: str) -> Ask:
        return Ask("POST", f"/threads/{turn_id}/cancel", body="{}")

    def _finish_run(self) -> str:
        thread = self.threads[-1]
        url = f"http://127.0.0.1:{self.port}/threads/{thread}/runs"
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(url, json.dumps(TURN).encode(), headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - loopback
            run_id = json.load(answer)["run_id"]
        time.sleep(1.0)
        return f"{thread}/runs/{run_id}"

    def count_turns(self) -> dict[str, int]:
        rows = fetch(self.dsn, "select status, count(*) from runs group by 1")
        counts = {row["status"]: row["count"] for row in rows}
        return {("completed" if name == "success" else name): n for name, n in counts.items()}

    def count_queued(self) -> int:
        return count_members(self.servers, "aegra:jobs")


def measure(servers: Servers, python: str, plan: Plan) -> dict[str, list[Figures]]:
    """Figures of all runs per system."""
    plan = replace(plan, connections=CONNECTIONS, seconds=min(plan.seconds, LONGEST_RUN_S))
    found: dict[str, list[Figures]] = {}
    with Side("turnkeep", servers, python).start() as system:
        found["turnkeep"] = measure_one(system, plan)
    aegra_python = find_aegra_python(plan)
    if aegra_python:
        # wrk leaves the streams that are open at the end, at this rate a good part of them.
        patient = replace(plan, wrk=None)
        with start(servers, aegra_python) as aegra:
            found["aegra"] = measure_one(aegra, patient)
        plan.note("aegra: without a key, checkpoints kept; its load client is the one in Python")
    return found


def measure_one(system: System, plan: Plan) -> list[Figures]:
    """First deltas before the load and gets after it; the samples of all runs are one."""
    idle = run_async(first_delta.sample(system, SAMPLES_PER_RUN * plan.runs))
    plan.load(system, system.stream_ask(), plan.seconds / 3)
    plan.settle(system, streams.SETTLE_PATIENCE_S)
    runs = [streams.run_once(system, plan) for _ in range(plan.runs)]
    # A median would hide that a stream now and then lacks deltas.
    wrong = {"wrong answers, all runs": sum(figures.pop("wrong answers") for figures in runs)}
    return [
        {**figures, **wrong, **idle, **gets.run_once(system, plan, f"run-{number}")}
        for number, figures in enumerate(runs)
    ]


@contextlib.contextmanager
def start(servers: Servers, python: str) -> Iterator[Aegra]:
    """Both processes on a fresh database; the API goes first, it makes the tables."""
    dsn = servers.make_database()
    servers.redis.flushall()
    shared = {**os.environ, **environment(servers, dsn)}
    ports, pids = {}, {}
    try:
        with contextlib.ExitStack() as stack:
            for name, loops in LOOPS_PER_PROCESS.items():
                ports[name] = free_port()
                command = [python, "-m", "uvicorn", "aegra_api.main:app", "--no-access-log"]
                command += ["--host", "127.0.0.1", "--port", str(ports[name])]
                log = servers.home / f"aegra-{name}.log"
                process = running(command, {**shared, "WORKER_COUNT": loops}, log)
                pids[name] = stack.enter_context(process)
                await_start(ports[name], log)
            yield Aegra(ports["api"], dsn, servers, make_threads(dsn), pids)
    finally:
        servers.drop_database(dsn)


def await_start(port: int, log: Path) -> None:
    """Waits until it listens; a start that fails shows the end of its log."""
    try:
        await_port(port, START_PATIENCE_S)
    except OSError:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        raise


def environment(servers: Servers, dsn: str) -> dict[str, str]:
    """Its defaults but for the Redis broker, and with the logs of production."""
    return {
        "AEGRA_CONFIG": str(CONFIGURATION),
        "DATABASE_URL": dsn,
        "REDIS_BROKER_ENABLED": "true",
        "REDIS_URL": f"redis://127.0.0.1:{servers.redis_port}/0",
        "ENV_MODE": "production",
        "LOG_LEVEL": "WARNING",
    }


def make_threads(dsn: str) -> tuple[str, ...]:
    """Threads of the only user that there is without authentication."""
    threads = tuple(str(uuid.uuid4()) for _ in range(THREADS))
    fetch(
        dsn,
        "insert into thread (thread_id, status, metadata_json, user_id)"
        " select id, 'idle', '{}', 'anonymous' from unnest($1::text[]) as id",
        threads,
    )
    return threads
