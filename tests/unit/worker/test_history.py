"""The history window: newest first to stay, whole exchanges only."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.history import LOCAL_MAX_TOKENS, budget_for, history_window


def row(role: str, content: str, raw: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "raw_data": raw}


def newest_within(rows: list[dict[str, Any]], max_tokens: int) -> list[Any]:
    return history_window(rows, max_tokens).rows


LONG = "x" * 400  # 100 tokens


def test_everything_fits_a_large_budget() -> None:
    rows = [row("user", "a"), row("assistant", "b")]
    assert newest_within(rows, 1000) == rows


def test_the_oldest_exchange_goes_first() -> None:
    rows = [row("user", LONG), row("assistant", LONG), row("user", LONG), row("assistant", "b")]
    assert newest_within(rows, 150) == rows[2:]


def test_a_window_never_starts_inside_an_exchange() -> None:
    call = {"parts": [{"part_kind": "tool-call", "args": {"a": 1}}]}
    rows = [
        row("user", LONG),
        row("assistant", "", call),
        row("tool", "2", {"parts": [{"part_kind": "tool-return", "content": 2}]}),
        row("assistant", "two"),
    ]
    assert newest_within(rows, 50) == []


def test_the_bulk_of_a_tool_result_counts() -> None:
    bulky = {"parts": [{"part_kind": "tool-return", "content": LONG * 10}]}
    rows = [row("user", "a"), row("tool", "", bulky), row("user", "b"), row("assistant", "c")]
    assert newest_within(rows, 100) == rows[2:]


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=40))),
    st.integers(0, 60),
)
def test_the_result_is_a_tail_within_the_budget(
    messages: list[tuple[str, str]], max_tokens: int
) -> None:
    rows = [row(role, content) for role, content in messages]
    kept = newest_within(rows, max_tokens)
    assert kept == rows[len(rows) - len(kept) :]
    assert sum(len(r["content"].encode()) for r in kept) <= max_tokens * 4
    assert not kept or kept[0]["role"] == "user"


@pytest.mark.parametrize(
    ("model_id", "tokens"), [("local:smollm2", LOCAL_MAX_TOKENS), ("openai:gpt-5", 50_000)]
)
def test_a_small_model_gets_a_small_history(model_id: str, tokens: int) -> None:
    assert budget_for(model_id, 50_000) == tokens


def test_system_messages_come_first_and_stay() -> None:
    rows = [row("user", LONG), row("system", "rule"), row("assistant", LONG), row("user", "now")]
    window = history_window(rows, 20)
    assert [r["content"] for r in window.rows] == ["rule", "now"]
    assert window.truncated


def test_what_is_left_out_is_told() -> None:
    rows = [row("user", "a"), row("assistant", "b")]
    assert not history_window(rows, 100).truncated
    assert history_window(rows, 100, is_whole=False).truncated
    assert history_window(rows, 0).truncated


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "tool", "system"]), st.text(max_size=40))
    ),
    st.integers(0, 60),
)
def test_the_budget_is_hard_with_system_messages_too(
    messages: list[tuple[str, str]], max_tokens: int
) -> None:
    rows = [row(role, content) for role, content in messages]
    window = history_window(rows, max_tokens)
    assert sum(len(r["content"].encode()) for r in window.rows) <= max_tokens * 4
    assert window.tokens <= max_tokens
    assert window.truncated == (len(window.rows) < len(rows))
