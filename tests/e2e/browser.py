"""What the page needs: a Chromium, and the page's script made of one line of the AI SDK."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "page"
LINES = ("ai-6", "ai-7")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_NPM_PATIENCE_S = 300
_MADE_OF = ".made-of"
"""In `node_modules`, the lock that it was installed from: there once all of it is."""


class Missing(Exception):
    """Something of this machine that the tests need; the message says how to get it."""


@dataclass(frozen=True)
class Bundle:
    """The page's script with one line of the AI SDK in it."""

    line: str
    versions: dict[str, str]
    script: bytes


def find_chromium() -> str:
    """The binary that `TURNKEEP_CHROMIUM` names, else the first Chromium or Chrome on PATH."""
    given = os.environ.get("TURNKEEP_CHROMIUM")
    found = [shutil.which(name) for name in ((given,) if given else _NAMES)]
    path = next(filter(None, found), None)
    if path is None:
        wanted = f"{given!r} of TURNKEEP_CHROMIUM" if given else "Chromium"
        raise Missing(
            f"{wanted} is not there. Debian: apt-get install chromium; or name a Chromium or "
            "Chrome in TURNKEEP_CHROMIUM"
        )
    return path


def version_of(program: str) -> str:
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    return answer.stdout.strip()


def make_bundle(line: str, directory: Path) -> Bundle:
    """Installs what the line's lock pins, where it is not there yet, and bundles the page."""
    client = HERE / "clients" / line
    _install(client)
    target = directory / f"{line}.js"
    _run(
        [
            str(client / "node_modules/.bin/esbuild"), str(PAGE / "page.jsx"), "--bundle",
            "--jsx=automatic", "--minify", "--define:process.env.NODE_ENV='production'",
            "--log-level=warning", f"--outfile={target}",
        ],
        client,
        NODE_PATH=str(client / "node_modules"),
    )  # fmt: skip
    wanted = json.loads((client / "package.json").read_text())["dependencies"]
    return Bundle(line, wanted, target.read_bytes())


def _install(client: Path) -> None:
    modules = client / "node_modules"
    lock = (client / "package-lock.json").read_text()
    mark = modules / _MADE_OF
    with (client / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text() == lock:
            return
        if shutil.which("npm") is None:
            raise Missing("npm is not there: install Node 20 or newer (Debian: npm)")
        print(f"e2e: installing the npm packages of {client.name}", flush=True)
        _run(["npm", "ci", "--no-audit", "--no-fund"], client)
        mark.write_text(lock)


def _run(command: list[str], directory: Path, **environment: str) -> None:
    answer = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_NPM_PATIENCE_S,
    )
    if answer.returncode:
        raise Missing(f"{' '.join(command[:2])} failed:\n{answer.stderr[-2000:]}")
