"""What clients may send for a turn, and what they are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from api.chat.submit_body import SubmitTurn
from api.chat.thread_schemas import CreateThread, Thread, UpdateThread, thread_to_dict
from api.chat.turn_schemas import Turn, turn_to_json
from api.limits import MAX_TEXT_CHARS
from api.wire import to_json
from shared.errors import InvalidRequest
from shared.turn.events import Usage
from shared.turn.model import Turn as StoredTurn
from shared.turn.state import TurnStatus

ID = UUID("01900000-0000-7000-8000-00000000000a")
AT = datetime(2026, 11, 21, 5, 0, 0, 120, tzinfo=UTC)


def user(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "m1", "role": "user", "parts": list(parts), **more}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


USABLE: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "useChat": (
        {
            "id": "chat",
            "trigger": "submit-message",
            "messages": [
                {"id": "s", "role": "system", "parts": [text("obey")]},
                {"id": "m0", "role": "assistant", "parts": [{"type": "tool-x"}]},
                user(text("hi")),
            ],
        },
        ("hi", "m1"),
    ),
    "two texts": ({"messages": [user(text("a"), text("b"))]}, ("a\nb", "m1")),
    "other parts": (
        {"messages": [user({"type": "step-start"}, text("a"), {"type": "data-x", "data": 1})]},
        ("a", "m1"),
    ),
    "older messages are ignored": ({"messages": [1, None, "x", user(text("a"))]}, ("a", "m1")),
    "last message only": ({"message": user(text("a"))}, ("a", "m1")),
    "plain text": ({"message": "a"}, ("a", None)),
    "content": ({"content": "a"}, ("a", None)),
    "no id": ({"messages": [{"role": "user", "parts": [text("a")]}]}, ("a", None)),
    "empty id": ({"messages": [user(text("a"), id="")]}, ("a", None)),
    "older form": ({"messages": [{"role": "user", "content": "a"}]}, ("a", None)),
    "no messages but one": ({"messages": [], "message": "a"}, ("a", None)),
    "white space is kept": ({"message": " a\n"}, (" a\n", None)),
    "longest": ({"message": "a" * MAX_TEXT_CHARS}, ("a" * MAX_TEXT_CHARS, None)),
}


@pytest.mark.parametrize("name", USABLE)
def test_user_text(name: str) -> None:
    body, expected = USABLE[name]
    said = SubmitTurn.model_validate(body).user_message()
    assert (said.text, said.client_id, said.files) == (*expected, ())


UNUSABLE: dict[str, tuple[dict[str, Any], tuple[Any, ...], str]] = {
    "nothing": ({}, ("body", "messages"), "missing"),
    "no messages": ({"messages": []}, ("body", "messages"), "missing"),
    "blank": ({"message": " \n\t"}, ("body", "messages"), "missing"),
    "blank parts": ({"messages": [user(text(" "))]}, ("body", "messages"), "missing"),
    "no parts": ({"messages": [user()]}, ("body", "messages"), "missing"),
    "only data": ({"messages": [user({"type": "data-x"})]}, ("body", "messages"), "missing"),
    "assistant last": (
        {"messages": [user(text("a")), {"role": "assistant", "parts": [text("b")]}]},
        ("body", "messages"),
        "value_error",
    ),
    "not an object": ({"messages": ["a"]}, ("body", "messages", 0), "dict_type"),
    "parts no list": ({"messages": [user(parts=1)]}, ("body", "messages", 0, "parts"), "list_type"),
    "part no object": (
        {"messages": [user(parts=[1])]},
        ("body", "messages", 0, "parts", 0),
        "dict_type",
    ),
    "text no string": (
        {"message": user({"type": "text", "text": 1})},
        ("body", "message", "parts", 0, "text"),
        "string_type",
    ),
    "file elsewhere": (
        {"messages": [user(text("see"), {"type": "file", "url": "https://example.org/x"})]},
        ("body", "messages", 0, "parts", 1, "url"),
        "url_scheme",
    ),
    "file without URL": (
        {"messages": [user(text("see"), {"type": "file"})]},
        ("body", "messages", 0, "parts", 1, "url"),
        "string_type",
    ),
    "file that is no base64": (
        {"messages": [user({"type": "file", "url": "data:text/plain;base64,%%%"})]},
        ("body", "messages", 0, "parts", 0, "url"),
        "url_parsing",
    ),
    "long file name": (
        {"messages": [user({"type": "file", "url": "data:,x", "filename": "x" * 256})]},
        ("body", "messages", 0, "parts", 0, "filename"),
        "string_too_long",
    ),
    "eleven files": (
        {"messages": [user(*[{"type": "file", "url": "data:,x"}] * 11)]},
        ("body", "messages", 0, "parts", 10),
        "too_long",
    ),
    "too long": ({"message": "a" * (MAX_TEXT_CHARS + 1)}, ("body", "message"), "string_too_long"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_no_user_text(name: str) -> None:
    body, loc, type_ = UNUSABLE[name]
    with pytest.raises(InvalidRequest) as caught:
        SubmitTurn.model_validate(body).user_message()
    assert (caught.value.loc, caught.value.type) == (loc, type_)


def test_files_come_with_the_message() -> None:
    """What they are, their bytes tell."""
    parts = [
        {"type": "file", "url": "data:image/png;base64,aGVsbG8=", "filename": "../a.md"},
        {"type": "file", "url": "data:,%3Csvg%3E", "mediaType": "text/plain"},
    ]
    said = SubmitTurn.model_validate({"messages": [user(*parts)]}).user_message()
    assert said.text == "(../a.md, file)"
    assert [(file.data, file.name, file.mime_type, file.reader) for file in said.files] == [
        (b"hello", "../a.md", "text/markdown", "text"),
        (b"<svg>", "file", "image/svg+xml", None),
    ]


@pytest.mark.parametrize(
    ("body", "loc", "type_"),
    [
        ({"messages": "a"}, ("messages",), "list_type"),
        ({"content": 1}, ("content",), "string_type"),
        ({"trigger": "other"}, ("trigger",), "literal_error"),
        ({"onConflict": "explode"}, ("onConflict",), "enum"),
        ({"onConflict": None}, ("onConflict",), "enum"),
        ({"settings": []}, ("settings",), "dict_type"),
        ({"settings": None}, ("settings",), "dict_type"),
        ({"settings": {"a": "x" * 17_000}}, ("settings",), "value_error"),
        ({"modelId": ""}, ("modelId",), "string_too_short"),
        ({"concurrencyKey": "k" * 256}, ("concurrencyKey",), "string_too_long"),
        ({"concurrencyKey": ""}, ("concurrencyKey",), "string_too_short"),
        ({"systemPrompt": "p" * 32_769}, ("systemPrompt",), "string_too_long"),
    ],
)
def test_bad_submit(body: dict[str, Any], loc: tuple[str, ...], type_: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SubmitTurn.model_validate({"message": "a", **body})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (loc, type_)


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        ({"metadata": None}, "dict_type"),
        ({"metadata": []}, "dict_type"),
        ({"metadata": {"a": "x" * 17_000}}, "value_error"),
        ({"title": "t" * 256}, "string_too_long"),
        ({"title": 1}, "string_type"),
        ({"systemPrompt": "p" * 32_769}, "string_too_long"),
    ],
)
def test_bad_thread(body: dict[str, Any], type_: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CreateThread.model_validate(body)
    assert [error["type"] for error in caught.value.errors()] == [type_]


def test_update_knows_absent_from_null() -> None:
    assert UpdateThread.model_validate({}).model_fields_set == set()
    changed = UpdateThread.model_validate({"title": None, "metadata": None})
    assert changed.model_fields_set == {"title", "metadata"}


def stored_turn(**changes: Any) -> StoredTurn:
    values: dict[str, Any] = {
        "id": ID,
        "tenant_id": ID,
        "user_id": ID,
        "thread_id": ID,
        "status": TurnStatus.PENDING,
        "attempt": 0,
        "accept_seq": 1,
        "input_message_id": ID,
        "planned_output_message_id": ID,
        "output_message_id": None,
        "model_id": "scripted",
        "settings": {},
        "concurrency_key": "k",
        "max_running": 1,
        "idempotency_key": None,
        "usage": None,
        "error": None,
        "worker_id": None,
        "last_seq": 0,
        "cancel_requested_at": None,
        "started_at": None,
        "ended_at": None,
        "created_at": AT,
        "updated_at": AT,
    }
    return StoredTurn(**{**values, **changes})


def test_a_waiting_turn_shows_its_nulls() -> None:
    shown = json.loads(turn_to_json(stored_turn()))
    assert shown == {
        "id": str(ID),
        "threadId": str(ID),
        "status": "pending",
        "attempt": 0,
        "inputMessageId": str(ID),
        "outputMessageId": None,
        "modelId": "scripted",
        "settings": {"agentSpecId": None},
        "usage": None,
        "error": None,
        "approvals": [],
        "idempotencyKey": None,
        "concurrencyKey": "k",
        "startedAt": None,
        "completedAt": None,
        "durationSeconds": None,
        "createdAt": "2026-11-21T05:00:00.000120Z",
        "updatedAt": "2026-11-21T05:00:00.000120Z",
    }


def test_an_ended_turn() -> None:
    turn = stored_turn(
        status=TurnStatus.FAILED,
        usage=Usage(input_tokens=1, output_tokens=2, total_cost="0.001230"),
        error={"code": "timeout", "message": "m"},
        started_at=AT,
        ended_at=AT + timedelta(seconds=1, microseconds=234_567),
    )
    shown = json.loads(turn_to_json(turn))
    assert shown["usage"] == {
        "inputTokens": 1,
        "outputTokens": 2,
        "cachedInputTokens": 0,
        "totalCost": "0.001230",
    }
    assert shown["error"] == {"code": "timeout", "message": "m"}
    assert shown["durationSeconds"] == 1.235


def test_rendering_and_document_agree() -> None:
    assert set(json.loads(turn_to_json(stored_turn()))) == aliases(Turn)
    row = dict.fromkeys(
        [
            "id", "title", "system_prompt", "agent_spec_id", "metadata", "last_message_at",
            "last_message_preview", "last_turn_id", "last_turn_status", "created_at", "changed_at",
            "is_crystallizable",
        ]
    )  # fmt: skip
    assert set(thread_to_dict(row)) == aliases(Thread)


def aliases(model: Any) -> set[str]:
    return {field.alias for field in model.model_fields.values()}


def test_a_whole_second_has_its_microseconds() -> None:
    turn = stored_turn(created_at=AT.replace(microsecond=0))
    assert json.loads(turn_to_json(turn))["createdAt"] == "2026-11-21T05:00:00.000000Z"


def test_text_that_looks_like_a_time_stays_text() -> None:
    assert to_json({"a": "2026-11-21T05:00:00+00:00"}) == b'{"a":"2026-11-21T05:00:00+00:00"}'
