"""Fixtures of tests/deploy: an ordinary user, the product with stand-in children, its processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
PLACES = {
    "api_main.py": "api/__main__.py",
    "worker_main.py": "worker/__main__.py",
    "migrate.py": "shared/postgres/migrate.py",
    "seed.py": "shared/service/seed.py",
}
PATIENCE_S = 40.0
ORDINARY_USER_ID = 65534


def wait_until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited in vain until {what}")
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Living processes that were started with this environment variable."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(variable) == value:
                found.append(process)
    return found


@pytest.fixture
def ordinary_user() -> list[str]:
    """A command prefix: what follows runs as an ordinary user.

    Root hands on only the right to read, so that the user reaches this Python wherever it is.
    """
    if os.geteuid() != 0:
        return []
    rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = [f"--reuid={ORDINARY_USER_ID}", f"--regid={ORDINARY_USER_ID}", "--clear-groups"]
    return ["setpriv", *user, *rights, "--"]


class Product:
    """`python -m deploy.run` in a folder where api, worker and shared are stand-ins.

    `is_real`: with the real ones, which take longer to start.
    """

    def __init__(self, folder: Path, prefix: list[str], *, is_real: bool = False) -> None:
        self.folder = folder
        self.prefix = prefix
        self.state_dir = folder / "state"
        self.extra: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None
        self._run = 0
        if is_real:
            return
        for source, place in PLACES.items():
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(STAND_IN / source, target)
        for package in ("api", "worker", "shared", "shared/postgres", "shared/service"):
            (folder / package / "__init__.py").touch()

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TURNKEEP_") and not name.endswith("_API_KEY")
        }
        ours = {
            "PYTHONPATH": str(ROOT),
            "LOCAL_LLM": "0",
            "TURNKEEP_PORT": "0",
            "TURNKEEP_STATE_DIR": str(self.state_dir),
            "STAND_IN_RUN": str(self.folder),
        }
        return {**kept, **ours, **self.extra}

    def launch(self) -> None:
        self._run += 1
        with self.output_path.open("w") as output, self.errors_path.open("w") as errors:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "deploy.run"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                text=True,
            )

    def start(self) -> None:
        self.launch()
        wait_until(lambda: "is ready" in self.output or self.exit_code is not None, "it is ready")
        assert self.exit_code is None, self.errors

    def fail(self) -> str:
        """Launches what cannot start; the one line on stderr."""
        self.launch()
        assert self.wait() != 0
        assert "Traceback" not in self.output + self.errors
        (line,) = self.errors.splitlines()
        assert line.startswith("turnkeep: ")
        return line

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    @property
    def exit_code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    @property
    def output_path(self) -> Path:
        return self.folder / f"output-{self._run}"

    @property
    def errors_path(self) -> Path:
        return self.folder / f"errors-{self._run}"

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    @property
    def errors(self) -> str:
        return self.errors_path.read_text()

    @property
    def credentials(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.state_dir / "credentials.json").read_text())
        return content

    @property
    def commands(self) -> str:
        """The shell lines of the banner."""
        match = re.search(r"^KEY=.*stream$", self.output, re.DOTALL | re.MULTILINE)
        assert match is not None
        return match.group()

    def processes(self) -> list[psutil.Process]:
        return processes_with("STAND_IN_RUN", str(self.folder))

    def running(self, module: str) -> list[psutil.Process]:
        """Processes started as `python -m module`."""
        return [
            process
            for process in self.processes()
            if [*process.cmdline()[1:], ""][:3] == ["-m", module, ""]
        ]

    def end(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait()


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    product = Product(tmp_path, [])
    yield product
    product.end()
