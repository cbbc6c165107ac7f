"""Messages in the form they are stored: each row's `raw_data` is one pydantic-ai ModelMessage.

Written by hand so that the API need not import a model library; a test holds the shapes against
pydantic-ai's own adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

PREVIEW_CHARS: Final = 140
TITLE_CHARS: Final = 80


def user_request(text: str) -> dict[str, Any]:
    """A ModelRequest that holds the user's text."""
    part = {"part_kind": "user-prompt", "content": text, "timestamp": _now()}
    return {"kind": "request", "parts": [part]}


def interrupted_response(text: str, model_id: str) -> dict[str, Any]:
    """A ModelResponse that was stopped after `text`."""
    return {
        "kind": "response",
        "parts": [{"part_kind": "text", "content": text}],
        "model_name": model_id,
        "timestamp": _now(),
        "state": "interrupted",
    }


def is_truncated(raws: Iterable[Mapping[str, Any] | None]) -> bool:
    """Whether the last ModelResponse among these messages ended at its limit of tokens."""
    reasons = [raw.get("finish_reason") for raw in raws if raw and raw.get("kind") == "response"]
    return bool(reasons) and reasons[-1] == "length"


def preview(text: str) -> str | None:
    """First characters of a message with white space collapsed; None when nothing is left."""
    return _shorten(text, PREVIEW_CHARS)


def title(text: str) -> str | None:
    """A thread's title made from its first message."""
    return _shorten(text, TITLE_CHARS)


def _shorten(text: str, limit: int) -> str | None:
    collapsed = " ".join(text[: limit * 20].split())
    if not collapsed:
        return None
    return collapsed if len(collapsed) <= limit else collapsed[: limit - 1] + "…"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
