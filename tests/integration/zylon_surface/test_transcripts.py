"""Every example of the workspace API's documentation, sent as it is printed there.

Host, token and ids are replaced; every key that is documented comes back, with its type.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fixtures.system import RunningWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import Member, frames_of

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
INTERACTION: dict[str, Any] = {
    "id": "inter_5a7b9c1d3e5f7a9b",
    "project_id": "proj_7a5c3e1b9d2f4a6c",
    "thread_id": "thread_3f2a1c4d5b6e7f8a",
    "state": "Completed",
    "artifact_ids": ["artifact_2b4d6f8a1c3e5a7b"],
    "all_artifacts": False,
    "user_input": {
        "role": "user",
        "content": [{"type": "text", "text": "Summarize the artifact in three bullets."}],
    },
    "assistant_output": {
        "id": "msg_3d2c1b4a5f6e7d8c",
        "created": 1739036500,
        "model": "default",
        "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "• Ticket volume rose 12% week-over-week"}],
        "usage": {"input_tokens": 180, "output_tokens": 52},
    },
    "created_at": "2026-02-08T14:41:10Z",
}
THREAD_PAGE: dict[str, Any] = {
    "data": [
        {
            "id": "thread_3f2a1c4d5b6e7f8a",
            "name": "Weekly Support Brief",
            "visibility": "Private",
            "created_at": "2026-02-08T14:40:00Z",
        }
    ],
    "has_next_page": False,
    "has_previous_page": False,
    "total_count": 1,
}
BACKLOG = "Draft a 2-sentence update on this week’s support backlog."
CHAT: dict[str, Any] = {
    "id": "msg_5f2e1d3c4b6a7c8d",
    "role": "assistant",
    "content": [{"type": "text", "text": "Backlog volume dipped 8% this week."}],
}


def require_like(told: Any, documented: Any, place: str = "") -> None:
    """`told` has all that is documented, of the same types; ids and times look as printed."""
    assert type(told) is type(documented), (place, told)
    match documented:
        case dict():
            for key, value in documented.items():
                assert key in told, f"{place}.{key} is missing in {told}"
                require_like(told[key], value, f"{place}.{key}")
        case list():
            assert len(told) >= len(documented), place
            for item in told:
                require_like(item, documented[0], f"{place}[]")
        case str() if re.fullmatch(r"[a-z]+_[0-9a-f]{16}", documented):
            prefix = documented.partition("_")[0]
            assert re.fullmatch(rf"{prefix}_[0-9a-f]{{32}}", told), (place, told)
        case str() if TIME.fullmatch(documented):
            assert TIME.fullmatch(told), (place, told)


async def upload(member: Member, data: bytes = b"The code is 4711.") -> dict[str, Any]:
    """A document of the default project, once its text is read."""
    made = await member.post(
        f"/project/{member.project_id}/artifact",
        data={"type": "Document", "name": "report", "props": "{}"},
        files={"fileData": ("report.txt", data, "text/plain")},
    )
    assert made.status_code == 201, made.text

    async def is_done() -> dict[str, Any] | None:
        told: dict[str, Any] = (await member.get(f"/artifact/{made.json()['id']}")).json()
        return told if told["ingest_status"] == "Done" else None

    return dict(await wait_until(is_done, "the document was ingested"))


async def test_a_thread_interaction(member: Member, worker: RunningWorker) -> None:
    thread, artifact = await member.thread(), (await upload(member))["id"]
    answered = await member.post(
        f"/thread/{thread}/interaction",
        json={
            "thread_id": thread,
            "artifact_ids": [artifact],
            "all_artifacts": False,
            "agent": "Default",
            "pgpt": {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Summarize the artifact in three bullets."}
                        ],
                    }
                ],
                "max_tokens": 120,
                "temperature": 0.2,
            },
        },
    )
    assert answered.status_code == 201, answered.text
    told = answered.json()
    require_like(told, INTERACTION)
    for key in ("state", "all_artifacts", "user_input"):
        assert told[key] == INTERACTION[key]
    assert told["assistant_output"]["stop_reason"] == "end_turn"
    assert told["assistant_output"]["model"] == "scripted"
    assert told["artifact_ids"] == [artifact]
    assert (told["thread_id"], told["project_id"]) == (thread, member.project_id)


async def test_create_list_update_and_delete_a_thread(member: Member) -> None:
    threads = f"/project/{member.project_id}/thread"
    body = {"name": "Weekly Support Brief", "visibility": "Private"}
    made = await member.post(threads, json=body)
    assert made.status_code == 201
    require_like(made.json(), THREAD_PAGE["data"][0])
    listed = await member.get(f"{threads}?page=1&page_size=20")
    assert listed.status_code == 200
    require_like(listed.json(), THREAD_PAGE)
    told = listed.json()
    assert {key: told[key] for key in THREAD_PAGE if key != "data"} == {
        key: THREAD_PAGE[key] for key in THREAD_PAGE if key != "data"
    }
    assert not {"next_cursor", "previous_cursor"} & told.keys()
    thread = f"/thread/{made.json()['id']}"
    changed = await member.put(thread, json=body)
    assert changed.status_code == 200
    assert changed.json()["name"] == "Weekly Support Brief"
    gone = await member.delete(thread)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await member.get(thread)).status_code == 404


async def test_list_fetch_delete_and_stream_interactions(
    member: Member, worker: RunningWorker
) -> None:
    thread = await member.thread()
    made = await member.asked(thread)
    listed = await member.get(f"/thread/{thread}/interaction?page=1&page_size=20")
    assert listed.status_code == 200
    assert listed.json()["data"] == [made]
    path = f"/interaction/{made['id']}"
    assert (await member.get(path)).json() == made
    streamed = await member.get(f"{path}/stream", headers={"accept": "text/event-stream"})
    assert streamed.status_code == 200
    assert streamed.headers["content-type"].startswith("text/event-stream")
    frames = frames_of(streamed.text)
    kinds = [kind for kind, _ in frames]
    # The short form of the documentation stands in the full one, in this order.
    short = [kind for kind in kinds if kind in {"message_start", "message_stop"}]
    assert short == ["message_start", "message_stop"]
    start = frames[0][1]["message"]
    require_like(start, {"id": "msg_3d2c1b4a5f6e7d8c", "role": "assistant", "content": []})
    delta = next(data for kind, data in frames if kind == "content_block_delta")
    require_like(delta["delta"], {"type": "text_delta", "text": "• Ticket"})
    assert frames[-1] == ("message_stop", {"type": "message_stop"})
    deleted = await member.delete(path)
    assert (deleted.status_code, deleted.json()) == (200, made)
    assert (await member.get(path)).status_code == 404


async def test_one_shot_chat(member: Member, worker: RunningWorker) -> None:
    answered = await member.post(
        "/chat",
        json={
            "messages": [{"role": "user", "content": [{"type": "text", "text": BACKLOG}]}],
            "max_tokens": 64,
            "temperature": 0.3,
        },
    )
    assert answered.status_code == 200, answered.text
    require_like(answered.json(), CHAT)
    assert answered.json()["role"] == "assistant"
    assert "Draft a 2-sentence update" in answered.json()["content"][0]["text"]


async def test_validate_a_chat_request(member: Member) -> None:
    text = "Give me a three-bullet summary of the Q1 support plan."
    answered = await member.post(
        "/chat/validate",
        json={
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            "max_tokens": 64,
            "temperature": 0.3,
        },
    )
    assert answered.status_code == 200
    assert answered.json() == {"valid": True, "errors": None, "warnings": []}


@pytest.mark.parametrize("path", ["/thread/thread_3f2a1c4d5b6e7f8a", "/interaction/inter_5a7b"])
async def test_errors_and_edge_cases(member: Member, path: str, worker: RunningWorker) -> None:
    invalid = await member.post("/chat", json={"messages": []})
    assert (invalid.status_code, invalid.json()["error"]["type"]) == (400, "invalid_request_error")
    absent = await member.get(path)
    assert (absent.status_code, absent.json()["error"]["type"]) == (404, "not_found_error")
    made = await member.asked(await member.thread())
    again = await member.post(f"/interaction/{made['id']}/cancel")
    assert (again.status_code, again.json()["error"]["type"]) == (409, "conflict_error")
