"""A file that is on its way in: on disk from its first bytes on, hashed and bounded as it comes.

The disk file has no name, so nothing is left of it however the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Self

from shared.errors import FileTooLarge, ObjectStoreUnavailable
from shared.files.kinds import HEAD_BYTES, Kind, tell_kind

_BATCH_BYTES: Final = 1_048_576
"""Gathered before a thread writes and hashes it: fewer hops, and never more of it in memory."""


class Spool:
    """Takes bytes by `add` and `flush`; complete after `finish`. Use in a `with` block.

    Raises:
        ObjectStoreUnavailable: by itself, `flush` and `finish`; the disk is full, or fails.
    """

    def __init__(self, max_bytes: int, directory: Path | None = None) -> None:
        self._max_bytes = max_bytes
        with _told_as_ours():
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - __exit__
        self._hash = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self.head = b""
        """The first `HEAD_BYTES`."""
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a full disk, for what was not written yet
            self._file.close()

    def add(self, data: bytes) -> None:
        """Takes a piece; `flush` must follow before long.

        Raises:
            FileTooLarge: with this piece.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise FileTooLarge(self._max_bytes)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    async def flush(self, *, at_least_bytes: int = _BATCH_BYTES) -> None:
        """Writes what has gathered, when it is so much."""
        if self._gathered_bytes >= max(at_least_bytes, 1):
            pieces, self._gathered, self._gathered_bytes = self._gathered, [], 0
            await asyncio.to_thread(self._write, pieces)

    async def finish(self) -> IO[bytes]:
        """The whole file, to be read from its beginning."""
        await self.flush(at_least_bytes=1)
        with _told_as_ours():
            await asyncio.to_thread(self._file.seek, 0)
        return self._file

    @property
    def sha256(self) -> bytes:
        """Digest of what was written."""
        return self._hash.digest()

    def tell_kind(self, name: str | None) -> Kind:
        """What the file is."""
        return tell_kind(self.head, name)

    def _write(self, pieces: list[bytes]) -> None:
        with _told_as_ours():
            for piece in pieces:
                self._hash.update(piece)
                self._file.write(piece)


@contextlib.contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObjectStoreUnavailable(f"No file can be written: {error}") from error
