"""What a model is shown of an attachment."""

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
