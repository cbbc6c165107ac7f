"""What a model is to be shown of a thread: messages as chat APIs take them, within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from api.mechamental.said import kept_of
from shared.turn.history import budget_for, estimate_tokens, history_window
from shared.turn.tool_parts import call_id_of, calls_in, results_in

UNKNOWN_CONTEXT_TOKENS: Final = 4096
"""The budget where nobody says one and the model's own is not known."""

_Row = dict[str, Any]


def default_budget(model_id: str, history_max_tokens: int) -> int:
    """Tokens to show where nobody asks for a number."""
    return budget_for(model_id, min(UNKNOWN_CONTEXT_TOKENS, history_max_tokens))


def build_context(
    system: Sequence[Any],
    talk: Sequence[Any],
    *,
    max_tokens: int,
    max_messages: int,
    is_whole: bool,
    with_tools: bool,
) -> dict[str, Any]:
    """A ConversationContext of stored messages, oldest first; `is_whole`: there are no others.

    A call whose result is not there is shown only at the very end, where the result is to come.
    """
    rows = [told for row in talk for told in _tell(row)]
    shown = list(_settle_calls(rows, with_tools=with_tools))
    window = history_window(
        [*(told for row in system for told in _tell(row)), *shown],
        max_tokens,
        is_whole=is_whole and (len(shown) == len(rows) or not with_tools),
        from_user=False,
        most=max_messages,
    )
    return {
        "messages": [row["said"] for row in window.rows],
        "total_tokens": window.tokens,
        "message_count": len(window.rows),
        "truncated": window.truncated,
    }


def _tell(row: Any) -> list[_Row]:
    """A stored message as rows of `history_window`: one for each message of a chat API."""
    kept, role, content = kept_of(row), row["role"], row["content"]
    tokens = kept.get("token_count")
    calls: list[dict[str, Any]] = []
    if role == "assistant":
        calls = kept["tool_calls"] if kept else calls_in(row["raw_data"])
    elif role == "tool" and kept:
        return [_result(kept["tool_call_id"], kept["tool_name"], content, tokens)]
    elif role == "tool":
        return [_result(*result, None) for result in results_in(row["raw_data"])]
    told = _plain(role, content, estimate_tokens(row) if tokens is None else tokens)
    return [_with_calls(told, calls) if calls else told]


def _plain(role: str, content: str, tokens: int) -> _Row:
    return {
        "role": role,
        "content": content,
        "raw_data": None,
        "token_count": tokens,
        "open": [],
        "calls": frozenset(),
        "results": frozenset(),
        "said": {"role": role, "content": content},
    }


def _with_calls(row: _Row, calls: list[dict[str, Any]]) -> _Row:
    said = {"role": row["role"], "content": row["content"]}
    if calls:
        said["tool_calls"] = calls
    ids = frozenset(found for call in calls if (found := call_id_of(call)) is not None)
    return {**row, "open": calls, "calls": ids, "said": said}


def _result(call_id: str | None, name: str | None, content: str, tokens: int | None) -> _Row:
    row = _plain("tool", content, 0)
    row["token_count"] = estimate_tokens(row) if tokens is None else tokens
    if call_id is not None:
        row["results"] = frozenset([call_id])
        row["said"]["tool_call_id"] = call_id
    if name is not None:
        row["said"]["name"] = name
    return row


def _settle_calls(rows: Sequence[_Row], *, with_tools: bool) -> Iterator[_Row]:
    """Rows without calls that nobody answers, and without those that say nothing else."""
    for index, row in enumerate(rows):
        if not row["open"]:
            yield row
            continue
        answered: set[str] = set()
        behind = index + 1
        while behind < len(rows) and rows[behind]["role"] == "tool":
            answered |= rows[behind]["results"]
            behind += 1
        is_last = with_tools and behind == len(rows)
        calls = row["open"] if is_last else [c for c in row["open"] if call_id_of(c) in answered]
        if calls or row["content"]:
            yield _with_calls(row, calls)
