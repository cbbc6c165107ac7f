#!/usr/bin/env python3
"""Owns .venv: makes it from nothing but a Python, fills it from the locks, then runs one command.

Invariant: a lock counts as installed only after its last package is in place, so an interrupted
download is repeated and never taken for a finished one. Standard library only, and written so
that an old Python can still read it and say what is missing.

    python3 deploy/bootstrap.py run | test | check | setup | lint | types | ...  [arguments]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

RUNTIME_LOCK = "requirements.lock"
DEVELOPMENT_LOCK = "requirements-dev.lock"  # contains the runtime lock, version by version
LOCAL_LLM_LOCK = "requirements-local-llm.lock"
E2E_LOCK = "requirements-e2e.lock"  # comes on top of the development lock

PACKAGES = ["api", "worker", "shared"]
SOURCES = [*PACKAGES, "deploy", "tests", "benchmarks"]

# What each command runs inside the environment; extra arguments go to the last word list.
COMMANDS = {
    "run": ["-m", "deploy.run"],
    # Many tests wait for servers: three at a time on two cores. Who has run out of tests takes
    # some of another's: with a file to each process one of them worked alone at the end.
    "test": ["-m", "pytest", "-n", "3", "--dist", "worksteal"],
    "test-unit": ["-m", "pytest", "tests/unit"],
    "test-integration": ["-m", "pytest", "tests/integration"],
    "test-acceptance": ["-m", "pytest", "tests/acceptance"],
    "test-e2e": ["-m", "pytest", "tests/e2e", "-p", "no:randomly", "-q", "--report"],
    "bench": ["-m", "benchmarks", "--report"],
    "chaos": ["-m", "tests.chaos"],
    "chaos-against": ["-m", "tests.chaos.against"],
    "fmt": ["-m", "ruff", "format", "."],
    "lint": ["-m", "ruff", "check", "."],
    "lint-format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "mypy"],
    "imports": [".venv/bin/lint-imports", "--no-logo"],
    "codespell": ["-m", "codespell_lib"],
    "lock-check": ["deploy/lock.py", "--check"],
    "audit": ["-m", "deploy.audit"],
    "lock": ["deploy/lock.py"],
}
CHECK = ["lint", "lint-format", "types", "imports", "codespell", "lock-check", "audit", "test"]


def say(text: str) -> None:
    print("setup: " + text, file=sys.stderr, flush=True)


def give_up(text: str) -> NoReturn:
    sys.exit("setup: " + text)


def require_supported_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  an older Python must get this line, not a traceback
        version = sys.version.split()[0]
        give_up(f"Python 3.11 or newer is needed, this is {version} (make PYTHON=python3.12 ...)")
    if sys.platform == "win32":
        give_up("Linux or macOS is needed (on Windows: WSL)")


def stamp_of(lock: str) -> str:
    digest = hashlib.sha256(sys.version.encode() + (ROOT / lock).read_bytes())
    return digest.hexdigest()


def stamp_path(lock: str) -> Path:
    return VENV / (lock + ".installed")


def failure_path(lock: str) -> Path:
    return VENV / (lock + ".failed")


def is_installed(lock: str) -> bool:
    return holds(stamp_path(lock), stamp_of(lock)) and PYTHON.exists()


def holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def missing_locks(command: str) -> list[str]:
    """The locks that the command needs and .venv does not have."""
    wanted = []
    if command != "run":
        wanted.append(DEVELOPMENT_LOCK)
    elif not is_installed(DEVELOPMENT_LOCK):
        wanted.append(RUNTIME_LOCK)
    if command == "test-e2e":
        wanted.append(E2E_LOCK)
    if wants_local_llm(command):
        wanted.append(LOCAL_LLM_LOCK)
    return [lock for lock in wanted if not is_installed(lock)]


def wants_local_llm(command: str) -> bool:
    if os.environ.get("LOCAL_LLM") == "0":
        return False
    if command == "run":  # a start does not wait for what could not be had before
        return not holds(failure_path(LOCAL_LLM_LOCK), stamp_of(LOCAL_LLM_LOCK))
    return command in ("setup", "test", "check")


def make_venv() -> None:
    """A virtual environment of this very Python; one of another Python is replaced."""
    marker = VENV / "made-by"
    if PYTHON.exists() and holds(marker, sys.version):
        return
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists():
        give_up(f"{VENV} exists and is no virtual environment; move it away")
    import venv  # slow, and not needed when everything is in place

    say("making .venv with Python " + sys.version.split()[0])
    if VENV.exists():
        shutil.rmtree(str(VENV))
    venv.create(str(VENV), with_pip=False, symlinks=True)
    marker.write_text(sys.version)


def works(command: list[str]) -> bool:
    try:
        answer = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:
        return False
    return answer.returncode == 0


def installer() -> list[str]:
    """The command that installs into .venv: uv, this Python's pip, or a pip unpacked from it."""
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--quiet", "--no-build", "--python", str(PYTHON)]
    pip_options = ["--quiet", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    # pip --python (22.3 and later) neither needs ensurepip nor trips over a managed system Python.
    outside = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if works([*outside, "--version"]):
        return [*outside, "install", *pip_options]
    inside = [str(PYTHON), "-m", "pip"]
    if works([*inside, "--version"]) or works([str(PYTHON), "-m", "ensurepip"]):
        return [*inside, "install", *pip_options]
    give_up(
        "no pip found. Install it (Debian and Ubuntu: apt install python3-pip;"
        " Fedora: dnf install python3-pip), or uv, and run this again"
    )


def install(lock: str, command: list[str]) -> None:
    """Installs one lock; the stamp is written last."""
    stamp = stamp_path(lock)
    if stamp.exists():
        stamp.unlink()
    packages = (ROOT / lock).read_text().count("==")
    say(f"installing {lock} ({packages} packages)")
    options = ["--require-hashes", "-r", str(ROOT / lock)]
    if lock == LOCAL_LLM_LOCK:
        options.insert(0, "--no-deps")
    return_code = subprocess.run([*command, *options], check=False).returncode
    if return_code == 0:
        stamp.write_text(stamp_of(lock))
    elif lock == LOCAL_LLM_LOCK:
        failure_path(lock).write_text(stamp_of(lock))
        say("the local model could not be installed; going on without it (LOCAL_LLM=0 skips it)")
    else:
        give_up(f"installing {lock} failed (see above); run the same command again")


def prepare(command: str) -> None:
    """Brings .venv up to what the command needs. One process at a time; others wait for it."""
    if not missing_locks(command):
        return
    import fcntl  # not there on Windows, where require_supported_python speaks first

    with (ROOT / ".venv.lock").open("w") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another setup of this folder to finish")
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        make_venv()
        missing = missing_locks(command)
        if missing:
            tool = installer()
            for lock in missing:
                install(lock, tool)
    say("done")


def existing_sources() -> list[str]:
    return [name for name in SOURCES if any((ROOT / name).rglob("*.py"))]


def command_line(command: str, arguments: list[str]) -> list[str]:
    words = [str(PYTHON), *COMMANDS[command], *arguments]
    if command == "types" and not arguments:
        words += existing_sources()
    return words


def check(arguments: list[str]) -> None:
    """Every step, also after one has failed; arguments go to the tests."""
    failed = []
    for step in CHECK:
        print("== " + step, flush=True)
        line = command_line(step, arguments if step == "test" else [])
        if subprocess.run(line, cwd=str(ROOT), check=False).returncode != 0:
            failed.append(step)
    if failed:
        sys.exit("failed: " + ", ".join(failed))


def main() -> None:
    command, arguments = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    if command not in COMMANDS and command not in ("setup", "check"):
        known = ["setup", "check", *COMMANDS]
        sys.exit("usage: python3 deploy/bootstrap.py " + " | ".join(known))
    require_supported_python()
    state_dir = os.environ.get("TURNKEEP_STATE_DIR")
    if state_dir:  # relative to where the caller stands, not to the project
        os.environ["TURNKEEP_STATE_DIR"] = str(Path(state_dir).absolute())
    prepare(command)
    if command == "setup":
        return
    os.chdir(str(ROOT))
    if command == "check":
        check(arguments)
        return
    sys.stdout.flush()
    line = command_line(command, arguments)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
