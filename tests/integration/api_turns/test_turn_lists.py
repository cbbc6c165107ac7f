"""Lists of turns page without loss, and a cursor serves the list it came from."""

from __future__ import annotations

from tests.integration.api_turns.conftest import User


async def test_pages_cover_everything_once(user: User) -> None:
    thread_id = await user.thread()
    made = [(await user.submit(thread_id, message=str(n))).json()["id"] for n in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answered = await user.get(
            f"/threads/{thread_id}/turns", params={"limit": 2, "cursor": cursor}
        )
        page = answered.json()
        seen += [turn["id"] for turn in page["items"]]
        cursor = page["nextCursor"]
    assert seen == made[::-1]


async def test_a_cursor_of_another_list_is_refused(user: User) -> None:
    first, second = await user.thread(), await user.thread()
    for thread_id in (first, second):
        for _ in range(2):
            await user.submit(thread_id)
    for listing in ("turns", "messages"):
        answered = await user.get(f"/threads/{first}/{listing}", params={"limit": 1})
        cursor = answered.json()["nextCursor"]
        for other in (f"/threads/{second}/{listing}", "/turns"):
            refused = await user.get(other, params={"cursor": cursor})
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"] == ["query", "cursor"]
