"""The native protocol: ids are cursors, bytes are what was stored."""

from __future__ import annotations

from api.streams.native import NativeEncoder
from shared.turn.events import Cursor, EventBatch, MessageDelta, encode_event


def test_every_event_has_its_own_id_and_name() -> None:
    payloads = [encode_event(MessageDelta(text=text)) for text in ("a", "b")]
    assert NativeEncoder().encode(EventBatch(2, 7, payloads)) == (
        b'id: 2-7\nevent: message.delta\ndata: {"type":"message.delta","text":"a"}\n\n'
        b'id: 2-8\nevent: message.delta\ndata: {"type":"message.delta","text":"b"}\n\n'
    )


def test_the_first_bytes_prime_the_cursor_without_an_event() -> None:
    assert NativeEncoder().open(Cursor(1, 5)) == b"retry: 1000\nid: 1-5\n\n"


def test_text_with_newlines_stays_on_one_data_line() -> None:
    frame = NativeEncoder().encode(EventBatch(1, 1, [encode_event(MessageDelta(text="a\n\nb"))]))
    assert frame.count(b"\n\n") == 1
