"""Messages of this surface and turns of the primary one, in one thread, through a worker."""

from __future__ import annotations

from typing import Any

import pytest

from shared.settings import Settings
from tests.chaos.fake_provider import FakeProvider, run_provider
from tests.chaos.provider_text import Behaviour, Schedule
from tests.fixtures.system import StartWorker
from tests.integration.mechamental_surface.conftest import AddMm, Mm, Place

pytestmark = pytest.mark.timeout(90)  # the first worker of a process imports the model libraries


@pytest.fixture
async def provider() -> Any:
    async with run_provider(schedule=Schedule(0, {Behaviour(deltas=1): 1.0})) as provider:
        yield provider


@pytest.fixture
def settings(settings: Settings, provider: FakeProvider) -> Settings:
    return settings.model_copy(update={"local_llm_url": provider.url})


async def thread_of(mm: Mm) -> str:
    (thread,) = (await mm.chat.get("/threads")).json()["items"]
    return str(thread["id"])


async def run_turn(mm: Mm, thread_id: str, **body: Any) -> dict[str, Any]:
    answered = await mm.chat.post(
        f"/threads/{thread_id}/turns",
        json={"message": "and now?", "modelId": "local:tiny", **body},
        headers={"prefer": "wait=50"},
    )
    assert answered.status_code == 200, answered.text
    turn: dict[str, Any] = answered.json()
    assert turn["status"] == "completed", turn
    return turn


def shown(provider: FakeProvider) -> list[tuple[str, str]]:
    """Roles and texts of the last call's messages."""
    messages = provider.calls[-1].body["messages"]
    return [(m["role"], str(m.get("content") or "")) for m in messages]


def require_pairs(messages: list[dict[str, Any]]) -> None:
    """As providers want it: results stand right behind the calls they answer, and all are there."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls, messages
            open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert not open_calls, messages


async def test_a_turn_sees_what_was_stored_before_it(
    mm: Mm, start_worker: StartWorker, provider: FakeProvider
) -> None:
    place = mm.place()
    await start_worker()
    await mm.say(place, "Speak like a pirate.", role="system")
    await mm.say(place, "My name is Ada.")
    await mm.say(place, "Ahoy, Ada!", role="assistant")
    thread_id = await thread_of(mm)
    turn = await run_turn(mm, thread_id)
    said = shown(provider)
    assert ("system", "Speak like a pirate.") in said
    assert said[-3:] == [
        ("user", "My name is Ada."),
        ("assistant", "Ahoy, Ada!"),
        ("user", "and now?"),
    ]
    # What is stored behind the turn is told behind it, not before all turns.
    await mm.say(place, "I moved to Kiel.")
    await run_turn(mm, thread_id, message="where?")
    answer = [text for role, text in shown(provider) if role == "assistant"][-1]
    assert shown(provider)[-4:] == [
        ("user", "and now?"),
        ("assistant", answer),
        ("user", "I moved to Kiel."),
        ("user", "where?"),
    ] or shown(provider)[-3:] == [
        ("user", "and now?"),
        ("assistant", answer),
        ("user", "I moved to Kiel.\n\nwhere?"),
    ]
    # And the turn's messages are told here, with what it used.
    messages = (await mm.get(place.path)).json()["messages"]
    made = [m for m in messages if m["execution_id"] == turn["id"]]
    assert [(m["role"], m["source"]) for m in made] == [
        ("user", "user_input"),
        ("assistant", "augmentation"),
    ]
    assert made[1]["model"] == "local:tiny"
    assert made[1]["prompt_tokens"] == turn["usage"]["inputTokens"]
    assert made[1]["completion_tokens"] == turn["usage"]["outputTokens"]
    assert made[0]["prompt_tokens"] is None
    assert made[1]["token_count"] > 0


CALLS: list[dict[str, Any]] = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
    {"id": "c2", "name": "g", "arguments": {}},
]


@pytest.mark.parametrize(
    "story",
    [
        [{"role": "tool", "content": "of nobody"}],
        [{"role": "tool", "content": "of nobody", "tool_call_id": "lost"}],
        [{"role": "assistant", "content": "", "tool_calls": CALLS}],
        [
            {"role": "assistant", "content": "", "tool_calls": CALLS},
            {"role": "tool", "content": "1", "tool_call_id": "c1", "tool_name": "other"},
        ],
        [
            {"role": "assistant", "content": "", "tool_calls": CALLS},
            {"role": "user", "content": "in between"},
            {"role": "tool", "content": "1", "tool_call_id": "c1", "tool_name": "f"},
        ],
        [
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
            {"role": "assistant", "content": "", "tool_calls": CALLS},
        ],
        [
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c 1", "x": 1}]},
            {"role": "tool", "content": "1", "tool_call_id": "c 1"},
        ],
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "name": "f", "arguments": "no JSON"}],
            },
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
        ],
        [{"role": "assistant", "content": " \n"}, {"role": "user", "content": "\t"}],
    ],
)
async def test_tool_messages_never_break_a_call_of_a_provider(
    mm: Mm, start_worker: StartWorker, provider: FakeProvider, story: list[dict[str, Any]]
) -> None:
    place = mm.place()
    await start_worker()
    await mm.say(place, "hello")
    for message in story:
        await mm.say(place, **message)
    await run_turn(mm, await thread_of(mm))
    messages = provider.calls[-1].body["messages"]
    require_pairs(messages)
    assert ("user", "of nobody") not in shown(provider), "no result is a user's word"
    for message in messages:
        assert message.get("tool_calls") or str(message.get("content")).strip(), messages


async def test_a_call_and_its_result_reach_the_model(
    mm: Mm, start_worker: StartWorker, provider: FakeProvider
) -> None:
    place = mm.place()
    await start_worker()
    await mm.say(place, "what is it?")
    await mm.say(place, "", role="assistant", tool_calls=CALLS)
    await mm.say(place, "one", role="tool", tool_call_id="c1")
    await mm.say(place, "two", role="tool", tool_call_id="c2", tool_name="g")
    await mm.say(place, "both", role="assistant")
    await run_turn(mm, await thread_of(mm))
    messages = provider.calls[-1].body["messages"]
    require_pairs(messages)
    told = [m for m in messages if m["role"] == "tool"]
    assert [(m["tool_call_id"], m["content"]) for m in told] == [("c1", "one"), ("c2", "two")]
    (calls,) = (m["tool_calls"] for m in messages if m.get("tool_calls"))
    assert [call["function"]["name"] for call in calls] == ["f", "g"]


async def test_a_tools_turn_is_told_as_chat_apis_take_it(mm: Mm, start_worker: StartWorker) -> None:
    thread_id = await mm.chat.thread()
    script = {"toolCalls": [{"name": "f", "args": {"a": 1}, "result": {"b": 2}}], "deltas": 1}
    await start_worker()
    turn = await run_turn(mm, thread_id, modelId="scripted", settings={"script": script})
    place = Place(str(mm.tenant_id), "default", "default", "default", thread_id)
    messages = (await mm.get(place.path)).json()["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    (call,) = messages[1]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert (messages[2]["tool_call_id"], messages[2]["tool_name"]) == (call["id"], "f")
    assert {m["execution_id"] for m in messages} == {turn["id"]}
    assert [m["completion_tokens"] for m in messages[:3]] == [None] * 3
    assert messages[3]["completion_tokens"] == turn["usage"]["outputTokens"]
    context = await mm.context(place)
    assert [m["role"] for m in context["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert context["messages"][1]["tool_calls"] == [call]
    assert context["messages"][2] == {
        "role": "tool",
        "content": '{"b":2}',
        "tool_call_id": call["id"],
        "name": "f",
    }


async def test_clear_cancels_what_is_active(
    mm: Mm, add_mm: AddMm, start_worker: StartWorker
) -> None:
    place = mm.place()
    await mm.say(place)
    thread_id = await thread_of(mm)
    await start_worker()
    script = {"script": {"deltas": 1000, "intervalMs": 50}}
    turns = [(await mm.chat.submit(thread_id, settings=script)).json()["id"] for _ in range(2)]
    colleague = await add_mm(mm.tenant_id)
    cleared = await colleague.delete(place.path)
    assert (cleared.status_code, cleared.content) == (200, b"null")
    for turn in turns:
        assert (await mm.chat.get(f"/turns/{turn}")).json()["status"] == "cancelled"
    assert await mm.listed(place) == []
    thread = (await mm.chat.get(f"/threads/{thread_id}")).json()
    assert (thread["lastMessageAt"], thread["lastMessagePreview"]) == (None, None)
    assert (thread["lastTurnId"], thread["lastTurnStatus"]) == (None, None)


async def submit_file(mm: Mm, thread_id: str) -> str:
    """A turn whose message has a file; its id."""
    image = "data:text/plain;base64,aGVsbG8="
    part = {"type": "file", "mediaType": "text/plain", "url": image, "filename": "a.txt"}
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "see"}, part]}
    answered = await mm.chat.submit(thread_id, message=message)
    assert answered.status_code == 202, answered.text
    return str(answered.json()["id"])


async def test_artifacts_of_a_turns_message_are_told(mm: Mm) -> None:
    thread_id = await mm.chat.thread()
    await submit_file(mm, thread_id)
    place = Place(str(mm.tenant_id), "default", "default", "default", thread_id)
    (told,) = (await mm.get(place.path)).json()["messages"]
    (artifact,) = told["artifacts"]
    assert (artifact["filename"], artifact["size_bytes"]) == ("a.txt", 5)
    assert artifact["artifact_id"]


async def test_a_turn_whose_answer_is_left_stays_the_newest(
    mm: Mm, start_worker: StartWorker
) -> None:
    """Where its question alone is removed: what comes next stands behind that answer."""
    await start_worker()
    thread_id = await mm.chat.thread()
    turns = [await run_turn(mm, thread_id, message=said) for said in ("one", "two")]
    place = Place(str(mm.tenant_id), "default", "default", "default", thread_id)
    told = (await mm.get(f"{place.path}?ascending=false")).json()["messages"]
    question = next(message for message in told if message["role"] == "user")
    path = f"{place.path}/{question['message_id']}"
    removed = await mm.delete(path, params={"timestamp": question["created_at"]})
    assert removed.status_code == 200, removed.text
    thread = (await mm.chat.get(f"/threads/{thread_id}")).json()
    assert thread["lastTurnId"] == turns[1]["id"]


@pytest.mark.parametrize("way", ["delete", "clear"])
async def test_what_is_removed_takes_its_attachments_along(mm: Mm, way: str, admin: Any) -> None:
    """And the thread tells of the newest turn that is left."""
    thread_id = await mm.chat.thread()
    artifacts = "http://test/api/v1/artifacts"
    kept = (await mm.chat.post(artifacts, json={"kind": "text", "content": "k"})).json()
    await mm.chat.post(f"/threads/{thread_id}/attachments?artifact_id={kept['id']}", json={})
    first, second = [await submit_file(mm, thread_id) for _ in range(2)]
    await mm.chat.post(f"/turns/{second}/cancel")
    place = Place(str(mm.tenant_id), "default", "default", "default", thread_id)
    newest = (await mm.get(f"{place.path}?ascending=false")).json()["messages"][0]

    async def left() -> tuple[Any, ...]:
        thread = (await mm.chat.get(f"/threads/{thread_id}")).json()
        listed = (await mm.chat.get(f"/threads/{thread_id}/attachments")).json()
        counted = await admin.fetchval("select attachment_count from threads")
        return thread["lastTurnId"], len(listed), counted

    assert await left() == (second, 3, 3)
    if way == "delete":
        path = f"{place.path}/{newest['message_id']}"
        removed = await mm.delete(path, params={"timestamp": newest["created_at"]})
        remaining: tuple[Any, ...] = (first, 2, 2)
    else:
        removed = await mm.delete(place.path)
        remaining = (None, 1, 1)
    assert removed.status_code == 200, removed.text
    assert await left() == remaining
