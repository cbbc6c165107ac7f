"""Messages that a request brings along before the one it asks about.

They are kept with that message, in its ModelRequest's `metadata`, which no model sees: they are
part of the exchange, not messages of the thread. Whoever builds a history takes them out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

PRECEDED: Final = "preceded"
"""Setting of a turn whose message has such messages: its worker looks for them."""
_KEY: Final = "preceding"


def with_preceding(
    raw: dict[str, Any], messages: Sequence[Mapping[str, Any]], **details: Any
) -> dict[str, Any]:
    """A ModelRequest that keeps messages (`role`, `content`, `raw_data`) and other details."""
    kept = {_KEY: list(messages)} if messages else {}
    return {**raw, "metadata": {**details, **kept}}


def details_of(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was kept with a message; empty for most."""
    metadata = raw.get("metadata") if raw else None
    return metadata if isinstance(metadata, dict) else {}


def preceding(raw: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The messages before a message: rows of a history, oldest first."""
    kept = details_of(raw).get(_KEY)
    return kept if isinstance(kept, list) else []


def expand(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a history, each behind the messages that precede it."""
    told: list[Mapping[str, Any]] = []
    for row in rows:
        if row["role"] == "user":
            told += preceding(row["raw_data"])
        told.append(row)
    return told
