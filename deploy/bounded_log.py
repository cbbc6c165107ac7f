"""Log files of bounded size: a file and its predecessor; a new one at start and every 20 MB."""

import os
import shutil
from pathlib import Path

MAX_BYTES = 20 * 1024 * 1024


def open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def predecessor(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def begin_log(path: Path) -> None:
    """Puts the log of the last run aside."""
    if path.exists():
        path.replace(predecessor(path))


def cut_log(path: Path) -> None:
    """Bounds a log that another process appends to, without that process noticing."""
    if path.exists() and path.stat().st_size > MAX_BYTES:
        shutil.copy(path, predecessor(path))
        os.truncate(path, 0)


class BoundedLog:
    """A log that this process writes, line by line."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._size_bytes = 0
        begin_log(path)
        self._file = open(path, "ab", buffering=0, opener=open_private)  # noqa: SIM115  closed by close()

    def write(self, line: bytes) -> None:
        if self._size_bytes + len(line) > self._max_bytes:
            self._file.close()
            begin_log(self.path)
            self._file = open(self.path, "ab", buffering=0, opener=open_private)  # noqa: SIM115
            self._size_bytes = 0
        self._file.write(line)
        self._size_bytes += len(line)

    def close(self) -> None:
        self._file.close()
