"""What `useChat` sends, with members that its application adds."""

from __future__ import annotations

from typing import Any

from tests.fixtures.system import StartWorker
from tests.integration.api_turns.conftest import User


async def test_members_of_the_application_are_passed_over(
    user: User, start_worker: StartWorker, admin: Any
) -> None:
    """Also those that are the server's to set elsewhere: they set nothing."""
    await start_worker()
    thread = await user.thread()
    said = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    body = {"id": "c", "trigger": "submit-message", "messages": [said], "modelId": "scripted"}
    added = {"userId": "u-17", "status": "failed", "createdAt": "2020-01-01", "color": "red"}
    answered = await user.post(f"/threads/{thread}/turns/stream", json=body | added)
    assert answered.status_code == 200, answered.text
    turn = await admin.fetchrow("select * from turns")
    assert turn["status"] == "completed"
    assert turn["created_at"].year > 2020
    assert "u-17" not in str(dict(turn))
    refused = await user.submit(thread, userId="u-17")
    assert refused.status_code == 422
