"""How much of a thread a model gets to see: the newest messages within a token budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

BYTES_PER_TOKEN: Final = 4
"""A rule of thumb for English and code; no tokenizer of ours fits every provider's model."""
LOCAL_MAX_TOKENS: Final = 1500
"""A small model on a CPU reads a few hundred tokens a second, and its context is short."""


def budget_for(model_id: str, history_max_tokens: int) -> int:
    """Tokens of history for a model."""
    is_local = model_id.startswith("local:")
    return min(history_max_tokens, LOCAL_MAX_TOKENS) if is_local else history_max_tokens


@dataclass(frozen=True, slots=True)
class HistoryWindow:
    """What is shown of a conversation. `tokens` is estimated, and never above the budget."""

    rows: list[Mapping[str, Any]]
    truncated: bool
    """Whether messages were left out."""
    tokens: int


def history_window(
    rows: Sequence[Mapping[str, Any]],
    max_tokens: int,
    *,
    is_whole: bool = True,
    from_user: bool = True,
    most: int | None = None,
) -> HistoryWindow:
    """System messages first, then the newest others, all within `max_tokens` and `most` messages.

    `rows` are messages oldest first (`role`, `content`, `raw_data`, and `token_count` where that is
    known better than by size); `is_whole` says that there are no earlier ones. What a model is to
    answer starts `from_user`: no answer without its question. Otherwise the newest messages that
    fit are shown, and rows say in `calls` and `results` which ids of tool calls they hold: no
    result is shown that does not follow its call.
    """
    left_bytes = max_tokens * BYTES_PER_TOKEN
    left = len(rows) if most is None else most
    system: list[Mapping[str, Any]] = []
    for row in rows:
        is_next = row["role"] == "system" and len(system) < left
        if is_next and (size := _size_bytes(row)) <= left_bytes:
            system.append(row)
            left_bytes -= size
    talk = [row for row in rows if row["role"] != "system"]
    if from_user:
        tail = _newest_within(talk, left_bytes, left - len(system), from_user=True)
    else:
        answered = _without_orphans(talk)  # first, so that they take no room
        shown = _newest_within(answered, left_bytes, left - len(system), from_user=False)
        tail = _without_orphans(shown)
    used_bytes = sum(map(_size_bytes, (*system, *tail)))
    return HistoryWindow(
        rows=[*system, *tail],
        truncated=not is_whole or len(system) + len(tail) < len(rows),
        tokens=-(-used_bytes // BYTES_PER_TOKEN),
    )


def estimate_tokens(row: Mapping[str, Any]) -> int:
    """Tokens of one message, by its size."""
    return -(-_size_bytes(row) // BYTES_PER_TOKEN)


def _newest_within(
    rows: Sequence[Mapping[str, Any]], left_bytes: int, most: int, *, from_user: bool
) -> list[Mapping[str, Any]]:
    """The longest tail of `rows` (oldest first) within the budget.

    Where it starts with a user message, no tool result stands without its call and no answer
    without its question.
    """
    start = len(rows)
    for index in range(len(rows) - 1, max(-1, len(rows) - 1 - most), -1):
        left_bytes -= _size_bytes(rows[index])
        if left_bytes < 0:
            break
        if rows[index]["role"] == "user" or not from_user:
            start = index
    return list(rows[start:])


def _without_orphans(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Drops tool results that do not stand right behind the calls they answer."""
    kept = []
    open_calls: set[str] = set()
    for row in rows:
        if row["role"] != "tool":
            open_calls = set(row["calls"])
        elif row["results"] and open_calls.issuperset(row["results"]):
            open_calls -= set(row["results"])
        else:
            continue
        kept.append(row)
    return kept


def _size_bytes(row: Mapping[str, Any]) -> int:
    known: int | None = row.get("token_count")
    if known is not None:
        return known * BYTES_PER_TOKEN
    # Tool calls and results have their bulk in the parts, not in the text.
    text = len(row["content"].encode())
    return text if row["role"] == "user" else max(text, _parts_bytes(row["raw_data"]))


def _parts_bytes(raw: Mapping[str, Any] | None) -> int:
    if not raw:
        return 0
    parts = raw.get("parts", [])
    told = [part.get("content", part.get("args", "")) for part in parts]
    return len(orjson.dumps(told))
