"""Environments of their own for the peers, matplotlib and Aegra: the product's stays as it is."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.progress import say
from benchmarks.systems import ROOT

PEERS = Path(__file__).with_name("peers")
NEWER_PYTHONS = ("python3.12", "python3.13", "python3.14")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `.turnkeep`, filled from one file of pinned requirements."""

    name: str
    requirements: Path
    what: str

    @property
    def folder(self) -> Path:
        return ROOT / ".turnkeep" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.folder / "installed"

    def digest(self) -> str:
        return hashlib.sha256(sys.version.encode() + self.requirements.read_bytes()).hexdigest()

    def is_installed(self) -> bool:
        return self.stamp.exists() and self.stamp.read_text() == self.digest()

    def install(self, maker: str, plan: Plan) -> str | None:
        """Its Python, made by `maker`, another one; None, with a note, when it cannot be made."""
        say(f"  installing {self.what} ({self.requirements.relative_to(ROOT)})")
        uv = shutil.which("uv")
        if uv:
            make = [uv, "venv", "-q", "--clear", "--python", maker, str(self.folder)]
            install = [uv, "pip", "install", "-q", "--python", str(self.python)]
        else:
            make = [maker, "-m", "venv", "--clear", str(self.folder)]
            install = [str(self.python), "-m", "pip", "install", "-q"]
        try:
            self.folder.parent.mkdir(exist_ok=True)
            subprocess.run(make, check=True)
            install += ["-r", str(self.requirements)]
            subprocess.run(install, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
            last = (said or str(error)).strip().splitlines()[-1:]
            plan.note(f"{self.what}: missing, the packages could not be installed: {last}")
            return None
        self.stamp.write_text(self.digest())
        return str(self.python)


PEERS_AND_PLOTS = Environment("bench-peers", PEERS / "requirements.txt", "peers and plots")
AEGRA = Environment("bench-aegra", PEERS / "aegra" / "requirements.txt", "Aegra")


def find_python(plan: Plan) -> str | None:
    """The Python of the peers and of matplotlib, if it is there or can be made."""
    if PEERS_AND_PLOTS.is_installed():
        return str(PEERS_AND_PLOTS.python)
    return PEERS_AND_PLOTS.install(sys.executable, plan)


def find_aegra_python(plan: Plan) -> str | None:
    """The Python of Aegra, if it is there or can be made."""
    if AEGRA.is_installed():
        return str(AEGRA.python)
    maker = find_newer_python()
    if maker is None:
        plan.note(f"Aegra: missing, it needs {NEWER_PYTHONS[0]} or later")
        return None
    return AEGRA.install(maker, plan)


def find_newer_python() -> str | None:
    """A Python that Aegra supports: this one, or the first that starts."""
    if sys.version_info >= (3, 12):
        return sys.executable
    for name in NEWER_PYTHONS:
        python = shutil.which(name)
        # A version manager leaves names that say no more than that another version was chosen.
        if python and not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            return python
    return None
