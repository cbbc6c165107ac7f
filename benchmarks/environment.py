"""An environment of its own for the peers and for matplotlib: the product's stays as it is."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.progress import say
from benchmarks.systems import ROOT

FOLDER = ROOT / ".turnkeep" / "bench-peers"
REQUIREMENTS = Path(__file__).with_name("peers") / "requirements.txt"


def find_python(plan: Plan) -> str | None:
    """Its Python, made when it is not there; None, with a note, when it cannot be made."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "installed"
    wanted = hashlib.sha256(sys.version.encode() + REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    say("  installing the peers (benchmarks/peers/requirements.txt)")
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(FOLDER)]
        install = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(FOLDER)]
        install = [str(python), "-m", "pip", "install", "-q"]
    try:
        FOLDER.parent.mkdir(exist_ok=True)
        subprocess.run(make, check=True)
        install += ["-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
        last = (said or str(error)).strip().splitlines()[-1:]
        plan.note(f"peers and plots are missing, their packages could not be installed: {last}")
        return None
    stamp.write_text(wanted)
    return str(python)
