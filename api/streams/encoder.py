"""What a stream's protocol must be able to say. One encoder object serves one SSE response."""

from __future__ import annotations

from typing import Protocol

from shared.turn.events import Cursor, EventBatch


class StreamEncoder(Protocol):
    """Bytes of whole SSE frames; empty bytes mean that there is nothing to say."""

    is_over: bool
    """The protocol lets nothing follow what was encoded last, though the turn may go on."""

    def open(self, cursor: Cursor) -> bytes:
        """First bytes, sent at once."""
        ...

    def queued(self, position: int) -> bytes:
        """The turn waits behind `position` others."""
        ...

    def encode(self, batch: EventBatch) -> bytes:
        """Frames of a batch."""
        ...

    def keep_alive(self) -> bytes:
        """Something that means nothing."""
        ...

    def reconnect(self) -> bytes:
        """Last bytes of a stream that ends before its turn does."""
        ...
