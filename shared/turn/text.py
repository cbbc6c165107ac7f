"""Text and JSON that every store and every wire can hold: no NUL, no lone surrogate, no NaN."""

from __future__ import annotations

import math
from typing import Any, Final

_REPLACEMENT: Final = "\ufffd"
_INTEGERS: Final = range(-(2**63), 2**64)
MAX_DEPTH: Final = 32
"""Levels of JSON from outside: what stands inside a stored text can be as deep as it likes."""


def storable(text: str) -> str:
    """`text` with U+FFFD in place of what Postgres, JSON or UTF-8 cannot carry."""
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", _REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def is_deep(value: Any) -> bool:
    """Whether a JSON value has more than `MAX_DEPTH` levels; looks no deeper."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def storable_json(value: Any) -> Any:
    """A JSON value whose strings and keys are all storable.

    An integer beyond 64 bits becomes its digits, what is no number in JSON becomes null.
    """
    match value:
        case str():
            return storable(value)
        case list():
            return [storable_json(item) for item in value]
        case dict():
            return {storable(key): storable_json(item) for key, item in value.items()}
        case int() if value not in _INTEGERS:
            return str(value)
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
