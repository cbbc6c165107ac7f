"""Messages that a request brings along: kept with its message, and told before it."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessagesTypeAdapter

from shared.turn.messages import user_request
from shared.turn.preceding import details_of, expand, preceding, with_preceding

EARLIER = {
    "role": "assistant",
    "content": "a",
    "raw_data": {"kind": "response", "parts": [{"part_kind": "text", "content": "a"}]},
}


def test_it_is_a_model_message_all_the_same() -> None:
    raw = with_preceding(user_request("x"), [EARLIER], artifact_ids=["a"])
    (message,) = ModelMessagesTypeAdapter.validate_python([raw])
    assert message.parts[0].content == "x"  # type: ignore[union-attr]
    assert details_of(raw)["artifact_ids"] == ["a"]
    assert preceding(raw) == [EARLIER]


def test_most_messages_bring_nothing() -> None:
    plain = user_request("x")
    assert (preceding(plain), preceding(None), details_of(None)) == ([], [], {})
    assert "preceding" not in details_of(with_preceding(plain, []))
    assert preceding({"metadata": {"preceding": "x"}}) == []
    assert preceding({"metadata": 1}) == []


def test_a_history_tells_them_first() -> None:
    row = {"role": "user", "content": "x", "raw_data": with_preceding(user_request("x"), [EARLIER])}
    answer = {"role": "assistant", "content": "y", "raw_data": None}
    assert expand([row, answer]) == [EARLIER, row, answer]
