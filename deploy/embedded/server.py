"""The life of one embedded server: own the directory, clear what a killed run left, start, stop.

Invariants: a directory has one living owner (DirectoryLock); a process is ended only when it is
ours, that is, when its id is on record and its command line names our random socket directory.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from deploy.embedded.directory_lock import DirectoryInUseError, DirectoryLock
from deploy.embedded.socket_directory import make_socket_directory, remove_socket_directory
from deploy.embedded.tether import SELF, tethered

POLL_INTERVAL_S = 0.005
LEFTOVER_PATIENCE_S = 3.0
LOG_TAIL_BYTES = 8192


class EmbeddedServerError(Exception):
    """The server could not be run; the message is one line for the user."""


class EmbeddedServer(ABC):
    """Everything lives in `data_dir`: the data, `lock`, `running.json`, `server.log`."""

    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]  # an orderly, quick end
    end_signals: ClassVar[tuple[signal.Signals, ...]]  # what follows when it is not heeded

    def __init__(self, data_dir: Path, *, log_path: Path | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = log_path or self.data_dir / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.identity = SELF
        self._lock = DirectoryLock(self.data_dir)
        self._socket_dir: Path | None = None
        self._log_start_byte = 0

    @property
    def socket_dir(self) -> Path:
        if self._socket_dir is None:
            raise EmbeddedServerError(f"{self.title} is not running")
        return self._socket_dir

    @abstractmethod
    def prepare(self) -> None:
        """Makes the data, when there is none yet."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def is_ready(self) -> bool: ...

    def choose_identity(self) -> str:
        return SELF

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C"}

    def start(self, timeout_s: float = 30.0) -> None:
        try:
            self.spawn()
            self.wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def spawn(self) -> None:
        """Starts the process, from the main thread (see tethered); after a death, once more."""
        try:
            self._take_directory()
            self.prepare()
            with open(self.log_path, "ab", opener=private) as log:
                self._log_start_byte = log.tell()
                self.process = subprocess.Popen(
                    tethered(self.command(), self.stop_signal, self.identity),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment(),
                    start_new_session=True,
                )
            self._record(self.process.pid)
        except DirectoryInUseError as error:
            raise EmbeddedServerError(str(error)) from None
        except OSError as error:
            raise EmbeddedServerError(f"{self.title} cannot be started: {error}") from error

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self.process is None or self.process.poll() is not None:
                raise EmbeddedServerError(f"{self.title} did not start: {self.last_error()}")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.title} was not ready within {timeout_s:.0f} s (log: {self.log_path})"
                )
            time.sleep(POLL_INTERVAL_S)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the server, harder each `timeout_s`, and gives the directory back. Idempotent."""
        if self.process is not None:
            for stop_signal in (self.stop_signal, *self.end_signals, signal.SIGKILL):
                if self.process.poll() is None:
                    self.process.send_signal(stop_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout_s)
                    break
            self.process = None
        if self._lock.is_held:
            self._forget()
            self._lock.release()

    def last_error(self) -> str:
        """The line of this run's log that says most about why it ended."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(max(self._log_start_byte, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line]
            fatal = [line for line in lines if "FATAL" in line or "rror" in line]
            if lines:
                return f"{(fatal or lines)[-1].strip()} (log: {self.log_path})"
        return f"no reason given (log: {self.log_path})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _take_directory(self) -> None:
        if self._lock.is_held:
            return
        if not self.data_dir.exists():
            self.data_dir.mkdir(parents=True)
            self.data_dir.chmod(0o711)  # ours from here on; user nobody may have to pass through
        self._lock.acquire()
        self._end_leftover()
        self.identity = self.choose_identity()
        self._socket_dir = make_socket_directory(shared_with_others=self.identity != SELF)
        self._record(None)

    @property
    def _record_path(self) -> Path:
        return self.data_dir / "running.json"

    def _record(self, pid: int | None) -> None:
        self._record_path.write_text(json.dumps({"pid": pid, "socketDir": str(self.socket_dir)}))

    def _forget(self) -> None:
        if self._socket_dir is not None:
            remove_socket_directory(self._socket_dir)
            self._socket_dir = None
        self._record_path.unlink(missing_ok=True)

    def _end_leftover(self) -> None:
        """Ends the server of a run that was killed: we own the directory, so nobody else does."""
        try:
            record = json.loads(self._record_path.read_text())
            pid, socket_dir = record["pid"], Path(record["socketDir"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        for stop_signal in (self.stop_signal, *self.end_signals, signal.SIGKILL):
            if not isinstance(pid, int) or not names_in_command_line(pid, socket_dir):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
            wait_until_gone(pid, socket_dir, LEFTOVER_PATIENCE_S)
        remove_socket_directory(socket_dir)


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def names_in_command_line(pid: int, socket_dir: Path) -> bool:
    """Does a living process `pid` have our socket directory among its arguments?"""
    if sys.platform == "linux":
        try:
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    else:
        listing = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        command_line = subprocess.run(listing, capture_output=True, check=False).stdout
    return str(socket_dir).encode() in command_line


def wait_until_gone(pid: int, socket_dir: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while names_in_command_line(pid, socket_dir) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
