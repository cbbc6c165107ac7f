"""Owns the short private directory for a server's unix socket.

A socket's path may have some 100 bytes, a state directory's any length and any character; so the
socket lives under the temp directory, in a directory of mode 0700 that only this user can enter.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

PREFIX = "turnkeep-"
BASE_MAX_BYTES = 60
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]*\Z")  # needs no escaping in any URL


def make_socket_directory(*, shared_with_others: bool = False) -> Path:
    """A new directory; `shared_with_others` leaves out places that only this user can enter."""
    bases = [tempfile.gettempdir(), "/tmp"]  # noqa: S108  mkdtemp makes a private one inside
    if not shared_with_others:
        bases.insert(0, os.environ.get("XDG_RUNTIME_DIR", ""))
    failure: OSError | None = None
    for base in bases:
        if not PLAIN_PATH.match(base) or len(base) > BASE_MAX_BYTES:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError as error:
            failure = error
    raise failure or OSError("no short temp directory for a socket; set TMPDIR to one")


def remove_socket_directory(directory: Path) -> None:
    """Removes what make_socket_directory made; anything else is left alone."""
    if directory.name.startswith(PREFIX) and not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=True)
