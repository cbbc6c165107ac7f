"""Owns requirements*.lock: hash-pinned, for every supported Python and platform, without addresses.

Each file opens with a digest of the requirements it was made from, so a lock that lags behind
pyproject.toml is found without a resolver and without a network.

    python deploy/lock.py            renew the locks (needs uv on PATH; --upgrade moves versions)
    python deploy/lock.py --check    exit 1 when a lock does not belong to pyproject.toml
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGEST_PREFIX = "# made from: "


@dataclass(frozen=True)
class Lock:
    """One lock file: what goes in, and how it is resolved."""

    name: str
    requirements: tuple[str, ...]
    constraint: str | None = None
    resolve_dependencies: bool = True

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.requirements)).encode()).hexdigest()


def declared_locks() -> list[Lock]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = tuple(project["project"]["dependencies"])
    groups = project["dependency-groups"]
    extras = project["project"]["optional-dependencies"]
    return [
        Lock("requirements.lock", runtime),
        Lock(
            "requirements-dev.lock",
            (*runtime, *groups["test"], *groups["dev"]),
            constraint="requirements.lock",
        ),
        Lock("requirements-e2e.lock", tuple(groups["e2e"]), constraint="requirements-dev.lock"),
        Lock("requirements-local-llm.lock", tuple(extras["local-llm"]), resolve_dependencies=False),
    ]


def is_current(lock: Lock) -> bool:
    if not lock.path.exists():
        return False
    first_line = lock.path.read_text().partition("\n")[0]
    return first_line == DIGEST_PREFIX + lock.digest


def renew(lock: Lock, *, upgrade: bool) -> None:
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--no-header"]
    command += ["--no-build", "--output-file", lock.name]
    if lock.constraint is not None:
        command += ["--constraint", lock.constraint]
    if not lock.resolve_dependencies:
        command.append("--no-deps")
    if upgrade:
        command.append("--upgrade")
    wanted = "\n".join(lock.requirements)
    subprocess.run(
        command, input=wanted, text=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    body = lock.path.read_text()
    if "://" in body:
        sys.exit(f"{lock.name} names an address; nothing that is fetched by URL can be locked here")
    lock.path.write_text(f"{DIGEST_PREFIX}{lock.digest}\n# renew with: make lock\n{body}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Renew or check requirements*.lock.")
    parser.add_argument("--check", action="store_true", help="only compare with pyproject.toml")
    parser.add_argument("--upgrade", action="store_true", help="move to the newest versions")
    arguments = parser.parse_args()
    locks = declared_locks()
    if arguments.check:
        stale = [lock.name for lock in locks if not is_current(lock)]
        if stale:
            sys.exit(f"{', '.join(stale)} does not belong to pyproject.toml; run: make lock")
        return
    if shutil.which("uv") is None:
        sys.exit("renewing the locks needs uv on PATH (any way of installing it will do)")
    for lock in locks:
        renew(lock, upgrade=arguments.upgrade)
        print(f"{lock.name} renewed")


if __name__ == "__main__":
    main()
