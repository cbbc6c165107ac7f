"""The history window: newest first to stay, whole exchanges only."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turn.history import LOCAL_MAX_TOKENS, budget_for, history_window


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


# -- what is shown without being answered


def aside(role: str, content: str, **more: Any) -> dict[str, Any]:
    ids = {name: frozenset(more.pop(name, ())) for name in ("calls", "results")}
    return {**row(role, content), **ids, **more}


def told(rows: list[dict[str, Any]], max_tokens: int = 100, **more: Any) -> list[str]:
    window = history_window(rows, max_tokens, from_user=False, **more)
    return [r["content"] for r in window.rows]


def test_the_newest_messages_are_shown_whoever_said_them() -> None:
    rows = [aside("user", LONG), aside("assistant", "b")]
    assert told(rows, 50) == ["b"]
    assert newest_within(rows, 50) == []


def test_a_known_number_of_tokens_counts_and_not_the_size() -> None:
    rows = [aside("user", LONG, token_count=1), aside("user", "b", token_count=90)]
    assert told(rows, 91) == [LONG, "b"]
    assert told(rows, 90) == ["b"]
    assert told(rows, 89) == []
    assert history_window(rows, 91, from_user=False).tokens == 91


def test_at_most_so_many_with_those_of_the_system() -> None:
    rows = [aside("system", "s"), *(aside("user", str(number)) for number in range(5))]
    assert told(rows, most=3) == ["s", "3", "4"]
    assert told(rows, most=1) == ["s"]
    assert told([*rows, aside("system", "t")], most=1) == ["s"]
    assert history_window(rows, 100, from_user=False, most=3).truncated


def test_no_result_stands_without_its_call() -> None:
    rows = [
        aside("assistant", LONG, calls=["a", "b"]),
        aside("tool", "1", results=["a"]),
        aside("tool", "2", results=["b"]),
        aside("user", "x"),
        aside("tool", "late", results=["a"]),
        aside("tool", "nobody's"),
    ]
    assert told(rows, 200) == [LONG, "1", "2", "x"]
    assert told(rows, 50) == ["x"]


def test_results_of_nobody_take_no_room() -> None:
    rows = [aside("user", "a"), aside("tool", LONG, results=["lost"]), aside("user", "b")]
    window = history_window(rows, 10, from_user=False)
    assert [r["content"] for r in window.rows] == ["a", "b"]
    assert window.truncated


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant", "tool", "system"]),
            st.text(max_size=20),
            st.sets(st.sampled_from("abc"), max_size=2),
        )
    ),
    st.integers(0, 40),
    st.integers(1, 10),
)
def test_the_budgets_are_hard(
    messages: list[tuple[str, str, set[str]]], max_tokens: int, most: int
) -> None:
    rows = [
        aside(role, content, **{"results" if role == "tool" else "calls": ids})
        for role, content, ids in messages
    ]
    window = history_window(rows, max_tokens, from_user=False, most=most)
    assert window.tokens <= max_tokens
    assert len(window.rows) <= most
    assert window.truncated == (len(window.rows) < len(rows))
    open_calls: set[str] = set()
    for shown in window.rows:
        if shown["role"] == "tool":
            assert shown["results"] <= open_calls
            open_calls -= shown["results"]
        elif shown["role"] != "system":
            open_calls = set(shown["calls"])
