"""What a person sees: one line per turn, readable warnings, silence about the rest."""

import io
import json
from typing import Any

import pytest

from deploy.console import Console


def shown(record: dict[str, Any] | bytes) -> str:
    stream = io.StringIO()
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    Console(stream).relay("worker-1", line)
    return stream.getvalue()


TURN = {
    "event": "turn.ended",
    "level": "info",
    "turn_id": "t-1",
    "thread_id": "h-1",
    "status": "failed",
    "model_id": "openai:gpt-5-mini",
    "attempt": 2,
    "duration_s": 3.14159,
    "output_tokens": 57,
    "error_code": "provider_error",
}


def test_a_turn_is_one_line() -> None:
    line = shown(TURN)
    assert line.count("\n") == 1
    for word in ("failed", "openai:gpt-5-mini", "3.14 s", "57 tokens", "attempt 2"):
        assert word in line
    assert "provider_error" in line
    assert "t-1" in line
    assert "\033" not in line


def test_a_turn_with_nothing_known_is_still_a_line() -> None:
    nothing = dict.fromkeys(TURN) | {"event": "turn.ended"}
    assert shown(nothing).count("\n") == 1


def test_an_error_is_readable_and_ends_with_the_exception() -> None:
    record = {
        "event": "lease.lost",
        "level": "error",
        "timestamp": "2026-01-01",
        "turn_id": "t-1",
        "exception": "Traceback (most recent call last):\n  File x\nOSError: gone",
    }
    line = shown(record)
    assert line.endswith("worker-1  error  lease.lost turn_id=t-1 OSError: gone\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    "record",
    [
        {"event": "worker.started", "level": "info"},
        b"plain text",
        b'{"broken',
        b'["turn.ended"]',
        b"",
    ],
)
def test_the_rest_is_for_the_log(record: dict[str, Any] | bytes) -> None:
    assert shown(record) == ""


def test_a_closed_terminal_is_no_reason_to_stop() -> None:
    stream = io.StringIO()
    console = Console(stream)
    stream.close()
    console.say("unheard")
