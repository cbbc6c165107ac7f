"""Progress goes to stderr; stdout is the report's."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
