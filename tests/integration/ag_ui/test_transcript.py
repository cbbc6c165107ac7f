"""One run with reasoning, a tool call and a text, event by event as it is on the wire.

`transcript.jsonl` holds the events; ids are numbered in the order in which they come. Source of
every event: https://docs.ag-ui.com/spec/1.0, and the types of the official `ag-ui-protocol`
package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from tests.fixtures.system import StartWorker
from tests.integration.ag_ui.test_runs import AGUI, EVENT, run_input
from tests.integration.api_turns.conftest import User

PRINTED = Path(__file__).with_name("transcript.jsonl")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|call_[0-9a-f]{32}")
SCRIPT = {
    "reasoning": "A sum.",
    "toolCalls": [{"name": "calculator", "args": {"expression": "6*7"}, "result": 42}],
    "text": "It makes 42.",
}


def comparable(events: list[bytes]) -> list[Any]:
    """The events without what differs from run to run."""
    known: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"id-{len(known) + 1}")

    text = ID.sub(name, b"\n".join(events).decode())
    return [orjson.loads(line) for line in text.split("\n")]


async def test_a_run(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    body = run_input(thread="sums", run="run-1", said="What does 6 times 7 make?", script=SCRIPT)
    answered = await user.post(AGUI, json=body)
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = [frame for frame in answered.content.split(b"\n\n") if frame.startswith(b"data: ")]
    events = [frame.removeprefix(b"data: ") for frame in frames]
    assert not any(EVENT.validate_json(event).model_extra for event in events)
    told = [event for event in comparable(events) if event.get("name") != "turn.queued"]
    assert told == [orjson.loads(line) for line in PRINTED.read_text().splitlines()]
