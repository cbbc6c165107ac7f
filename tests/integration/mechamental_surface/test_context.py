"""What a model would be shown of a thread, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.mechamental_surface.conftest import Mm

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


async def test_the_newest_messages_that_fit(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "rule", role="system", token_count=5)
    for number in range(10):
        role = "assistant" if number % 2 else "user"
        await mm.say(place, f"m{number}", role=role, token_count=10)
    context = await mm.context(place, max_tokens=38)
    assert [m["content"] for m in context["messages"]] == ["rule", "m7", "m8", "m9"]
    assert (context["total_tokens"], context["message_count"]) == (35, 4)
    assert context["truncated"]
    context = await mm.context(place, max_tokens=38, include_system=False)
    assert [m["content"] for m in context["messages"]] == ["m7", "m8", "m9"]
    context = await mm.context(place, max_messages=3)
    assert [m["content"] for m in context["messages"]] == ["rule", "m8", "m9"]
    assert context == await mm.context(place, limit=3)
    whole = await mm.context(place)
    assert (whole["message_count"], whole["total_tokens"]) == (11, 105)
    assert not whole["truncated"]
    nothing = await mm.context(place, max_tokens=4)
    assert nothing == {
        "messages": [],
        "total_tokens": 0,
        "message_count": 0,
        "truncated": True,
    }


async def test_a_newest_message_that_does_not_fit_is_left_out_as_a_whole(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "rule", role="system")
    await mm.say(place, "small")
    await mm.say(place, "x" * 4000)
    context = await mm.context(place, max_tokens=100)
    assert [m["content"] for m in context["messages"]] == ["rule"]
    assert context["truncated"]


async def test_the_budget_is_4096_where_none_is_asked_for(mm: Mm) -> None:
    place = mm.place()
    for _ in range(5):
        await mm.say(place, "x" * 4000)
    context = await mm.context(place)
    assert (context["total_tokens"], context["message_count"]) == (4000, 4)
    assert context["truncated"]
    assert (await mm.context(place, max_tokens=5000))["message_count"] == 5


async def test_a_system_message_is_kept_however_old(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "rule", role="system")
    for number in range(60):
        await mm.say(place, f"m{number}")
    context = await mm.context(place)
    assert context["message_count"] == 50
    assert context["messages"][0] == {"role": "system", "content": "rule"}
    assert context["messages"][-1]["content"] == "m59"
    assert context["truncated"]


async def test_tools_come_in_pairs_as_chat_apis_take_them(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "ask", token_count=1)
    await mm.say(place, "", role="assistant", tool_calls=[CALL], token_count=1)
    await mm.say(place, "42", role="tool", tool_call_id="c1", tool_name="f", token_count=1)
    await mm.say(place, "it is 42", role="assistant", token_count=1)
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"}
    said = {"role": "assistant", "content": "it is 42"}
    context = await mm.context(place, max_tokens=3)
    assert context["messages"] == [call, result, said]
    context = await mm.context(place, max_tokens=2)
    assert context["messages"] == [said], "no result without its call"
    context = await mm.context(place, include_tool_messages=False)
    assert context["messages"] == [{"role": "user", "content": "ask"}, said]
    assert not context["truncated"]


async def test_a_result_of_no_call_is_left_out_and_told(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "whose?", role="tool")
    await mm.say(place, "whose?", role="tool", tool_call_id="lost")
    await mm.say(place, "x")
    context = await mm.context(place)
    assert context["messages"] == [{"role": "user", "content": "x"}]
    assert context["truncated"]


async def test_a_call_without_result_stands_only_at_the_end(mm: Mm) -> None:
    place = mm.place()
    await mm.say(place, "let me see", role="assistant", tool_calls=[CALL])
    context = await mm.context(place)
    assert context["messages"][0]["tool_calls"] == [CALL]
    await mm.say(place, "never mind")
    context = await mm.context(place)
    assert context["messages"] == [
        {"role": "assistant", "content": "let me see"},
        {"role": "user", "content": "never mind"},
    ]


@pytest.mark.parametrize(
    ("wrong", "type_"),
    [
        ({"max_tokens": 0}, "greater_than_equal"),
        ({"max_tokens": 1_000_001}, "less_than_equal"),
        ({"max_tokens": True}, "int_type"),
        ({"max_messages": 201}, "less_than_equal"),
        ({"limit": 0}, "greater_than_equal"),
        ({"include_system": 1}, "bool_type"),
        ({"thread_id": "other"}, "value_error"),
    ],
)
async def test_bodies_are_checked(mm: Mm, wrong: dict[str, Any], type_: str) -> None:
    place = mm.place()
    refused = await mm.post(f"{place.path}/context", json={**place.ids, **wrong})
    assert refused.status_code == 422
    (item,) = refused.json()["detail"]
    assert item["type"] == type_
