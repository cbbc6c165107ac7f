"""The native protocol: named SSE events, `id:` is the resume cursor, `data:` the event as stored.

Frames follow the WHATWG HTML standard §9.2 (server-sent events).
"""

from __future__ import annotations

from typing import Final

from shared.turn.events import Cursor, EventBatch, TurnQueued, encode_event

RECONNECT_MS: Final = 1000


class NativeEncoder:
    """See `api.streams.encoder.StreamEncoder`. Stored bytes are forwarded, not decoded."""

    __slots__ = ()
    is_over = False

    def open(self, cursor: Cursor) -> bytes:
        """The reconnect time; a frame without data, so that `id:` primes the client's cursor."""
        return b"retry: %d\nid: %s\n\n" % (RECONNECT_MS, str(cursor).encode())

    def queued(self, position: int) -> bytes:
        return b"event: turn.queued\ndata: %s\n\n" % encode_event(TurnQueued(position=position))

    def encode(self, batch: EventBatch) -> bytes:
        return b"".join(
            b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (batch.attempt, seq, _type_of(payload), payload)
            for seq, payload in enumerate(batch.payloads, batch.first_seq)
        )

    def keep_alive(self) -> bytes:
        return b": ping\n\n"

    def reconnect(self) -> bytes:
        return b'event: stream.reconnect\ndata: {"type":"stream.reconnect"}\n\n'


def _type_of(payload: bytes) -> bytes:
    # Every stored event starts with {"type":"…": the encoder of the union puts `type` first.
    start = len(b'{"type":"')
    return payload[start : payload.index(b'"', start)]
