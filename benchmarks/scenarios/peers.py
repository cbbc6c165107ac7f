"""The hop of other queues, from enqueue to the beginning of a job that does nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.environment import find_python
from benchmarks.load import percentile
from benchmarks.plan import Figures, Plan
from benchmarks.progress import say
from benchmarks.scenarios.hop import SAMPLES_PER_RUN
from benchmarks.servers import Servers
from benchmarks.systems import ROOT
from deploy.embedded.tether import tethered

START_S = 2.0
WARM_UP = 5
OWN = {"arq, poll 0.5 s": ("with_arq", "0.5"), "arq, poll 10 ms": ("with_arq", "0.01")}
INSTALLED = {"saq": "with_saq", "taskiq, list": "with_taskiq", "streaq": "with_streaq"}


def measure(servers: Servers, plan: Plan) -> dict[str, Figures]:
    """Figures per peer; one that cannot be installed or run is told of in the notes."""
    python = find_python(plan)
    peers = {name: (sys.executable, *peer) for name, peer in OWN.items()}
    if python:
        peers |= {name: (python, module, "") for name, module in INSTALLED.items()}
    found: dict[str, Figures] = {}
    for name, (interpreter, module, poll_s) in peers.items():
        say(f"    {name}")
        servers.redis.flushall()
        try:
            hops = sample(servers, interpreter, module, poll_s, SAMPLES_PER_RUN * plan.runs)
        except (OSError, subprocess.SubprocessError) as error:
            plan.note(f"peer {name} did not run: {error}")
            continue
        found[name] = {
            "hop p50 ms": percentile(hops, 0.5) * 1000,
            "hop p99 ms": percentile(hops, 0.99) * 1000,
            "samples": float(len(hops)),
        }
    servers.redis.flushall()
    return found


def sample(servers: Servers, python: str, module: str, poll_s: str, count: int) -> list[float]:
    """Seconds from enqueue to start, without the first few."""
    notes = servers.home / f"{module}.hops"
    notes.unlink(missing_ok=True)
    env = {**os.environ, "POLL": poll_s}
    program = [python, "-m", f"benchmarks.peers.{module}"]
    port = str(servers.redis_port)
    with running([*program, "worker", port, str(notes)], env, servers.home / f"{module}.log"):
        time.sleep(START_S)
        subprocess.run(
            [*program, "enqueue", port, str(WARM_UP + count)],
            check=True,
            cwd=ROOT,
            env=env,
            capture_output=True,
            timeout=count + 60,
        )
        time.sleep(1.0)
    return [float(line) for line in notes.read_text().split()][WARM_UP:]


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], log_path: Path) -> Iterator[int]:
    """A process as long as the block; its id."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            tethered(command, signal.SIGKILL),
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
