"""`make run` on data that is there already: how soon it is ready, and how big a worker is."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from benchmarks.plan import Figures, Plan
from benchmarks.systems import ROOT, Side
from deploy.configuration import free_port
from deploy.embedded.tether import tethered

PATIENCE_S = 60.0
POLL_S = 0.01
SETTLE_S = 3.0


def measure(side: Side, plan: Plan) -> list[Figures]:
    if side.name != "turnkeep":
        return []  # it is no product: nobody starts it with one command
    with tempfile.TemporaryDirectory(prefix="turnkeep-start-") as folder:
        Path(folder).chmod(0o711)
        state = Path(folder) / "state"
        cold = run_once(side, state)
        runs = [run_once(side, state) for _ in range(plan.runs)]
    for figures in runs:
        figures["first start s"] = cold["warm start s"]
    return runs


def run_once(side: Side, state: Path) -> Figures:
    port = free_port()
    env = {
        **os.environ,
        "TURNKEEP_STATE_DIR": str(state),
        "TURNKEEP_PORT": str(port),
        "TURNKEEP_WORKERS": "1",
        "OPENAI_API_KEY": "not-a-key",  # a provider that is configured and never asked
    }
    began = time.monotonic()
    process = subprocess.Popen(
        tethered([side.python, "-m", "deploy.run"], signal.SIGTERM),
        env=env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_ready(port, process)
        ready_s = time.monotonic() - began
        time.sleep(SETTLE_S)
        figures: Figures = {"warm start s": ready_s}
        for part in ("api", "worker"):
            figures[f"RSS MB {part}"] = memory_of(process.pid, part) / 1e6
        return figures
    finally:
        process.terminate()
        process.wait(20)


def await_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(POLL_S)


def memory_of(pid: int, module: str) -> int:
    """Resident memory of the one descendant that runs `-m module`."""
    for member in psutil.Process(pid).children(recursive=True):
        if member.cmdline()[-2:] == ["-m", module]:
            return int(member.memory_info().rss)
    return 0
