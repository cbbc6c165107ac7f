"""What a model is shown of an attachment, and what its tools read."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class AttachedText:
    """An attachment's text, or as much of it as there was room for."""

    attachment_id: UUID
    name: str
    mime_type: str | None
    text: str
    """Empty where nothing could be read."""
    is_cut: bool


@dataclass(frozen=True, slots=True)
class AttachedName:
    """An attachment as tools find it. `size_bytes` is that of its text in UTF-8."""

    attachment_id: UUID
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AttachedPart:
    """A part of an attachment's text; `total_chars` is the length of all of it."""

    text: str
    total_chars: int
    is_cut: bool
    """Whether there was more in the file than could be kept."""
