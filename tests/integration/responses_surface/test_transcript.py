"""One streamed turn with reasoning, a tool call and a text, event by event as it is on the wire.

`transcript.jsonl` holds the events: ids are numbered in the order in which they come, times are 0.
Source of every event and object: the types of the official `openai` package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fixtures.system import StartWorker
from tests.integration.api_turns.conftest import User
from tests.integration.responses_surface.conftest import RESPONSES

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PRINTED = Path(__file__).with_name("transcript.jsonl")
ID = re.compile(r'"(resp|conv|msg|rs|mcp)_[0-9a-f]{32,}"')
TIME = re.compile(r'"(created_at|completed_at)":\d+')
REQUEST = {
    "model": "scripted",
    "input": "What does 6 times 7 make?",
    "instructions": "Be brief.",
    "metadata": {"topic": "sums"},
    "stream": True,
    "settings": {
        "script": {
            "intervalMs": 0,
            "reasoning": "A sum.",
            "toolCalls": [{"name": "calculator", "args": {"expression": "6*7"}, "result": 42}],
            "text": "It makes 42.",
        }
    },
}


def comparable(events: list[bytes]) -> list[Any]:
    """The events without what differs from run to run."""
    known: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f'"{match[1]}_{len(known) + 1}"')

    text = b"\n".join(events).decode()
    text = TIME.sub(r'"\1":0', ID.sub(name, text))
    return [orjson.loads(line) for line in text.split("\n")]


async def test_a_streamed_response(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    answered = await user.post(RESPONSES, json=REQUEST)
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = [frame for frame in answered.content.split(b"\n\n") if frame.startswith(b"event: ")]
    events = []
    for frame in frames:
        kind, data = frame.split(b"\n")
        event = EVENT.validate_json(data.removeprefix(b"data: "))
        assert kind == b"event: " + event.type.encode()
        assert not event.model_extra
        events.append(data.removeprefix(b"data: "))
    assert comparable(events) == [orjson.loads(line) for line in PRINTED.read_text().splitlines()]
