"""What the kit takes from Debian: another Redis, and a library that shifts clocks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.chaos.arena import FaultSkipped

REDIS = Path("/usr/bin/redis-server")
INSTALL_LIMIT_S = 180


def find_redis() -> Path:
    """Debian's Redis, or the one of TURNKEEP_TEST_REDIS_BIN. Installs it when it may.

    Raises:
        FaultSkipped: there is none, and it cannot be installed.
    """
    chosen = os.environ.get("TURNKEEP_TEST_REDIS_BIN")
    if chosen:
        return Path(chosen)
    if not REDIS.exists():
        _install("redis-server")
    return REDIS


def find_faketime() -> Path:
    """The library of `faketime` that is loaded before others.

    Raises:
        FaultSkipped: as `find_redis`.
    """
    found = _faketime()
    if found is None:
        _install("libfaketime")
        found = _faketime()
    if found is None:
        raise FaultSkipped("libfaketime is installed and has no library")
    return found


def _faketime() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def _install(package: str) -> None:
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise FaultSkipped(f"{package} is not installed, and only root may install it with apt-get")
    # RUNLEVEL: a package that brings a service must not start it here.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = [apt, "install", "-y", "--no-install-recommends", package]
    try:
        for arguments in ([apt, "update"], command):
            subprocess.run(
                arguments, env=environment, capture_output=True, check=True, timeout=INSTALL_LIMIT_S
            )
    except (subprocess.SubprocessError, OSError) as error:
        raise FaultSkipped(f"{package} could not be installed: {error}") from None
