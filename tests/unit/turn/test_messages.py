"""Messages made by hand have pydantic-ai's shape."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, ModelResponse

from shared.turn.messages import (
    PREVIEW_CHARS,
    TITLE_CHARS,
    interrupted_response,
    is_truncated,
    preview,
    title,
    user_request,
)


def test_a_user_message_is_a_model_request() -> None:
    (message,) = ModelMessagesTypeAdapter.validate_python([user_request("Hello ☃")])
    assert isinstance(message, ModelRequest)
    (part,) = message.parts
    assert (part.part_kind, getattr(part, "content", None)) == ("user-prompt", "Hello ☃")


def test_an_interrupted_answer_is_a_model_response() -> None:
    raw = interrupted_response("half an ans", "openai:gpt")
    (message,) = ModelMessagesTypeAdapter.validate_python([raw])
    assert isinstance(message, ModelResponse)
    assert (message.model_name, message.state) == ("openai:gpt", "interrupted")
    (part,) = message.parts
    assert (part.part_kind, getattr(part, "content", None)) == ("text", "half an ans")


def test_both_survive_pydantic_ai_and_come_back_alike() -> None:
    raw = [user_request("a"), interrupted_response("b", "m")]
    again = ModelMessagesTypeAdapter.dump_python(
        ModelMessagesTypeAdapter.validate_python(raw), mode="json"
    )
    for mine, theirs in zip(raw, again, strict=True):
        for key, value in mine.items():
            if key != "parts":
                assert theirs[key] == value
        for part, their_part in zip(mine["parts"], theirs["parts"], strict=True):
            assert part.items() <= their_part.items()


def test_previews_are_short_and_on_one_line() -> None:
    assert preview("  a \n\t b  ") == "a b"
    assert preview(" \n ") is None
    assert title("") is None
    long = preview("x" * 500)
    assert long is not None
    assert len(long) == PREVIEW_CHARS
    assert long.endswith("…")
    assert len(title("y" * 500) or "") == TITLE_CHARS
    assert preview("z" * PREVIEW_CHARS) == "z" * PREVIEW_CHARS


@pytest.mark.parametrize(
    ("reasons", "truncated"),
    [([], False), (["stop"], False), (["length"], True), (["length", "stop"], False)],
)
def test_an_answer_was_cut_when_its_last_response_was(reasons: list[str], truncated: bool) -> None:
    raws: list[dict[str, Any] | None] = [
        {"kind": "response", "parts": [], "finish_reason": reason} for reason in reasons
    ]
    assert is_truncated([None, user_request("x"), *raws, user_request("y")]) is truncated
