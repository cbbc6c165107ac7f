"""How far the text of a file has been read."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class IngestionStatus(StrEnum):
    """Of a stored file; `none`: nobody has attached it yet, or there is nothing we can read."""

    NONE = "none"
    PENDING = "pending"
    """Attached; a worker will read it."""
    PROCESSING = "processing"
    """A worker reads it. One that is lost leaves it to another, by its lease."""
    COMPLETED = "completed"
    FAILED = "failed"
    """Nobody could read it, and nobody will try again."""


RETRIED_REASONS: Final = ("killed", "missing", "poison", "timeout")
"""Of failures that say little about the file: who attaches it again has it tried again."""
