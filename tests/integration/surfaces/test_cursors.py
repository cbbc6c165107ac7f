"""A cursor is good as it was given, on the surface that gave it, and nowhere else."""

from __future__ import annotations

import base64
import json

from tests.integration.surfaces.conftest import Person
from tests.integration.surfaces.test_ids import say

_SIGNATURE_CHARS = 16


async def test_a_cursor_is_signed_and_of_its_surface(owner: Person) -> None:
    """Of the same thread and order: its place is one on both surfaces, its cursor is not."""
    thread = (await owner.made("primary", "/api/v1/chat/threads"))["id"]
    for number in range(3):
        assert await say(owner, thread, f"m{number}") == 201
    mm, chat = f"{{default}}/{thread}/messages", f"/api/v1/chat/threads/{thread}/messages"
    told = (await owner.ask("mm", "GET", f"{mm}?limit=1")).json()["next_cursor"]
    own = (await owner.ask("primary", "GET", f"{chat}?limit=1")).json()["nextCursor"]
    plain, signature = own[:-_SIGNATURE_CHARS], own[-_SIGNATURE_CHARS:]
    listing, seq = json.loads(base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4)))
    moved = base64.urlsafe_b64encode(json.dumps([listing, seq + 1]).encode()).decode().rstrip("=")
    for forged in (told, plain, moved + signature, moved, signature, own + "A", own[1:]):
        for way, path in (("primary", chat), ("mm", mm)):
            if (forged, way) != (told, "mm"):
                refused = await owner.ask(way, "GET", f"{path}?cursor={forged}")
                assert refused.status_code == 422, (forged, refused.text)
                assert refused.json()["detail"][0]["loc"] == ["query", "cursor"]
    for way, path, cursor in (("primary", chat, own), ("mm", mm, told)):
        answered = await owner.ask(way, "GET", f"{path}?limit=1&cursor={cursor}")
        assert "m1" in answered.text, answered.text
