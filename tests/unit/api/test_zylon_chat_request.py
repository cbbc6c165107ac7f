"""What a model is told of the messages before the last one, and of what there are warnings."""

from __future__ import annotations

from typing import Any

import pytest

from api.zylon.chat_request import ZylonChatRequest, warnings_of


def use(*ids: str) -> dict[str, Any]:
    blocks = [{"type": "tool_use", "id": i, "name": f"tool_{i}", "input": {}} for i in ids]
    return {"role": "assistant", "content": blocks}


def result(call: str, content: Any = "r") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content}


def tool(*content: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content[0] if isinstance(content[0], str) else [*content]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def told(*messages: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    """Kind, call and content of all that is no call."""
    chat = ZylonChatRequest.model_validate({"messages": [*messages, user("Go on")]})
    return [
        (part["part_kind"], part.get("tool_call_id"), part["content"])
        for row in chat.preceding()
        for part in row["raw_data"]["parts"]
        if part["part_kind"] != "tool-call"
    ]


TEXT = {"type": "text", "text": "said"}
RETURN = ("tool-return", "a", "said")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([use("a"), tool("said")], [RETURN]),
        ([use("a", "b"), tool(result("b")), tool("said")], [("tool-return", "b", "r"), RETURN]),
        ([use("a", "b"), tool(result("b"), TEXT), tool(result("a", "true"))],
         [("tool-return", "b", "r"), ("tool-return", "a", "true")]),
        ([use("a", "b"), tool("said")], []),
        ([use("a"), tool("said"), tool("more")], [RETURN]),
        ([use("a"), tool(result("a"), TEXT)], [("tool-return", "a", "r")]),
        ([use("a"), user("Hm"), tool("said")], [("user-prompt", None, "Hm")]),
        ([use("a"), {"role": "assistant", "content": "Hm"}, tool("said")], [("text", None, "Hm")]),
        ([tool("said")], []),
    ],
)  # fmt: skip
def test_a_tools_text_is_the_result_of_the_one_open_call_or_nobodys(
    messages: list[dict[str, Any]], expected: list[tuple[str, str | None, str]]
) -> None:
    assert told(*messages) == expected


def test_a_result_beside_the_users_words() -> None:
    said = {"role": "user", "content": [result("a"), TEXT]}
    assert told(use("a"), said) == [("tool-return", "a", "r"), ("user-prompt", None, "said")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("as it is", "as it is"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ([{"type": "image", "data": "x"}, {"type": "text", "text": "one"}], "one"),
        ([{"type": "text", "text": ""}], ""),
        ([{"type": "image"}], '[{"type":"image"}]'),
        ({"answer": 42}, '{"answer":42}'),
        ([1, 2], "[1,2]"),
        (None, ""),
        ([], ""),
    ],
)
def test_a_results_text(content: Any, text: str) -> None:
    assert told(use("a"), tool(result("a", content))) == [("tool-return", "a", text)]


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({"tool_choice": "none"}, ["tool_choice"]),
        ({"tool_choice": {"type": "any"}}, ["tool_choice"]),
        ({"tool_choice": "auto"}, []),
        ({"tool_choice": {"type": "auto"}}, []),
        ({"system": {"use_default_prompt": True}}, ["system.use_default_prompt"]),
        ({"system": {"citations": {"enabled": True}}}, ["system.citations"]),
        ({"system": "Be kind."}, []),
        ({"priority": "high"}, ["priority"]),
    ],
)
def test_what_has_no_effect_is_said(more: dict[str, Any], warned: list[str]) -> None:
    chat = ZylonChatRequest.model_validate({"messages": [user("x")], **more})
    assert warnings_of(chat) == [f"{name} has no effect" for name in warned]
