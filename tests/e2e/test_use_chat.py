"""`useChat` of the AI SDK, which nobody here wrote, on a page in a browser, against the product.

Each check looks at the page, and then asks the API whether the same is true there.
"""

from __future__ import annotations

import signal
from typing import Any

from tests.e2e import report
from tests.e2e.chat_page import PATIENCE_S, ChatPage
from tests.e2e.conftest import CHAT, EMAIL, PASSWORD, Server, Tabs
from tests.fixtures.waiting import wait_until

COUNT: dict[str, Any] = {"deltas": 160, "intervalMs": 50}
"""Eight seconds of `w0 w1 … w159 `: long enough to do something meanwhile."""
LONG: dict[str, Any] = {**COUNT, "deltas": 2000}
LAST = "w159 "


def words(count: int) -> str:
    return "".join(f"w{number} " for number in range(count))


COUNTED = words(160)
PAY: dict[str, Any] = {"name": "pay", "args": {"euros": 5}, "result": {"receipt": 7}}
ASK: dict[str, Any] = {
    "approval": {"text": "Let me. ", "calls": [PAY]},
    "text": "All done.",
    "intervalMs": 0,
}


async def test_signs_in_with_a_cookie(tabs: Tabs, server: Server) -> None:
    """Sign in by password: a cookie that no script can read, a wrong password is told"""
    page = await tabs.new()
    await page.open()
    await page.sign_in(EMAIL, "not the password")
    await page.page.wait_for_selector("#error:not(:empty)")
    assert (await page.error()).startswith("401 ")
    await page.sign_in(EMAIL, PASSWORD)
    await page.until_status("ready")
    (cookie,) = await tabs.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("vai_token", True, "Lax")
    assert await page.page.evaluate("document.cookie") == ""
    me = await page.page.evaluate("fetch('/api/v1/auth/me').then((answer) => answer.json())")
    assert (me["user"]["email"], me["session"]["tokenType"]) == (EMAIL, "session")


async def test_another_origin_may_not_act(tabs: Tabs, chat: ChatPage, server: Server) -> None:
    """A page of another origin of the same site sends the cookie along and is refused (403)"""
    url = f"{chat.origin}{CHAT}/threads/{chat.thread_id}/turns"
    form = f"""<form method="post" enctype="text/plain" action="{url}">
      <input name='{{"message": "' value='"}}'><button>Win</button></form>"""
    evil = "http://127.0.0.1:8099/evil"
    other = await tabs.context.new_page()
    await other.route(evil, lambda route: route.fulfill(body=form, content_type="text/html"))
    await other.goto(evil)
    async with other.expect_response(url) as coming:
        await other.click("button")
    answer = await coming.value
    assert "vai_token" in (await answer.request.all_headers()).get("cookie", "")
    assert answer.status == 403
    assert await server.turns(chat.thread_id) == []


async def test_sends_and_streams(chat: ChatPage, server: Server) -> None:
    """Send: the answer grows word by word, page and server have the same ids, text and usage"""
    await chat.send("Count", **{**COUNT, "deltas": 60})
    seen: set[str] = set()

    async def is_over() -> bool:
        if answer := await chat.answer():
            seen.add(answer.text)
        return await chat.status() == "ready"

    await wait_until(is_over, "the answer is whole", PATIENCE_S)
    answer = await chat.finished()
    assert answer.text == words(60)
    assert len(seen - {"", words(60)}) >= 2, "it came at once"
    assert all(words(60).startswith(text) for text in seen)
    (turn,) = await server.turns(chat.thread_id)
    assert (turn["status"], turn["id"]) == ("completed", answer.turn_id)
    assert turn["outputMessageId"] == answer.id
    assert answer.metadata is not None
    assert answer.metadata["usage"] == turn["usage"]
    assert answer.metadata["inputMessageId"] == turn["inputMessageId"]
    assert await server.said(chat.thread_id) == [("user", "Count"), ("assistant", words(60))]
    assert chat.complaints == []


async def test_a_conversation(chat: ChatPage, server: Server) -> None:
    """Several turns with reasoning and tools; a reload shows the same from the stored messages"""
    tools = [
        {"name": "look_up", "args": {"city": "Graz"}, "result": {"people": 303_270}},
        {"name": "book", "args": {"seats": 2}, "error": "no seats left"},
    ]
    await chat.send("Plan it", reasoning="Hm, let me see.", toolCalls=tools, text="Sorry, full.")
    answer = await chat.finished()
    assert answer.kinds == ["reasoning", "tool-look_up", "tool-book", "text"]
    looked, booked = answer.part("tool-look_up"), answer.part("tool-book")
    assert (looked.state, looked.input) == ("output-available", {"city": "Graz"})
    assert looked.output == {"people": 303_270}
    assert booked.state == "output-error"
    assert "no seats left" in booked.text
    assert answer.part("reasoning").text == "Hm, let me see."
    assert answer.text == "Sorry, full."
    await chat.send("Thanks", text="You are welcome.")
    await chat.until_text("You are welcome.")
    await chat.finished()
    shown = await chat.messages()
    assert [m.role for m in shown] == ["user", "assistant"] * 2

    turns = await server.turns(chat.thread_id)
    assert [turn["status"] for turn in turns] == ["completed"] * 2
    rows = await server.messages(chat.thread_id)
    roles = [row["role"] for row in rows]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    calls = [p for p in rows[1]["rawData"]["parts"] if p["part_kind"] == "tool-call"]
    assert [call["tool_call_id"] for call in calls] == [looked.call, booked.call]

    await chat.page.reload()
    await chat.until_text("You are welcome.")
    again = await chat.messages()
    assert [m.text for m in again] == [m.text for m in shown]
    assert [m.kinds for m in again] == [m.kinds for m in shown]
    assert [m.id for m in again if m.role == "assistant"] == [
        m.id for m in shown if m.role == "assistant"
    ]
    assert [m.states for m in again] == [m.states for m in shown]
    assert chat.complaints == []


async def test_a_file_goes_along(chat: ChatPage, server: Server) -> None:
    """A file of the message is stored and attached to it"""
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"the code is 4711"}
    await chat.send("Read this", files=[note], text="Read.")
    await chat.finished()
    (turn,) = await server.turns(chat.thread_id)
    answer = await server.client.get(f"{CHAT}/threads/{chat.thread_id}/attachments")
    (attachment,) = answer.json
    assert attachment["originalFilename"] == "note.txt"
    assert attachment["messageId"] == turn["inputMessageId"]
    path = f"/api/v1/artifacts/{attachment['artifactId']}/content"
    assert (await server.client.get(path)).body == note["buffer"]


async def test_approves(chat: ChatPage, server: Server) -> None:
    """Approve: `addToolApprovalResponse`, the same message goes on, the tool has run"""
    await chat.send("Pay", **ASK)
    asked = await chat.until_part("tool-pay", "approval-requested")
    await chat.until_status("ready")
    parked = await server.turn(asked.turn_id)
    assert parked["status"] == "awaiting_approval"
    assert [a["toolCallId"] for a in parked["approvals"]] == [asked.part("tool-pay").call]
    await chat.press("Approve")
    answer = await chat.until_text("All done.")
    assert (await chat.finished()).id == asked.id == answer.id
    assert answer.part("tool-pay").state == "output-available"
    assert answer.part("tool-pay").output == {"receipt": 7}
    assert answer.text == "Let me. All done."
    turn = await server.turn(asked.turn_id)
    assert (turn["status"], turn["attempt"], turn["approvals"]) == ("completed", 2, [])
    assert turn["outputMessageId"] == answer.id
    roles = [role for role, _ in await server.said(chat.thread_id)]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert chat.complaints == []


async def test_denies(chat: ChatPage, server: Server) -> None:
    """Deny with a reason: the part says so, and the model was told"""
    await chat.send("Pay", **ASK)
    asked = await chat.until_part("tool-pay", "approval-requested")
    await chat.until_status("ready")
    await chat.press("Deny")
    answer = await chat.until_text("All done.")
    await chat.until_status("ready")
    assert answer.part("tool-pay").state == "output-denied"
    turn = await server.turn(asked.turn_id)
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    assert ("tool", "too dear") in await server.said(chat.thread_id)
    await chat.page.reload()
    again = await chat.until_text("All done.")
    assert again.part("tool-pay").state == "output-denied"


async def test_decides_on_two_calls(chat: ChatPage, server: Server) -> None:
    """Two calls at once: nothing is sent before both are decided, one each way"""
    book = {"name": "book", "args": {"seats": 1}, "result": "booked"}
    await chat.send("Go", approval={"calls": [PAY, book]}, text="All done.", intervalMs=0)
    asked = await chat.until_part("tool-book", "approval-requested")
    await chat.until_status("ready")
    await chat.press("Approve")
    await chat.until_part("tool-pay", "approval-responded")
    assert (await server.turn(asked.turn_id))["status"] == "awaiting_approval"
    await chat.press("Deny")
    answer = await chat.until_text("All done.")
    assert answer.part("tool-pay").state == "output-available"
    assert answer.part("tool-book").state == "output-denied"
    assert (await server.ended(asked.turn_id))["status"] == "completed"


async def test_approves_after_a_reload(chat: ChatPage, server: Server) -> None:
    """Reload while approval is awaited: it is asked again, approve, and reload while it goes on"""
    script = {**ASK, "text": COUNTED, "intervalMs": 50}
    await chat.send("Pay", **script)
    before = await chat.until_part("tool-pay", "approval-requested")
    await chat.until_status("ready")
    await chat.page.reload()
    asked = await chat.until_part("tool-pay", "approval-requested")
    await chat.until_status("ready")
    assert (asked.id, asked.text) == (before.id, "Let me. ")
    assert [m.role for m in await chat.messages()] == ["user", "assistant"]
    await chat.press("Approve")
    await chat.until_text("w3 ")
    await chat.page.reload()
    answer = await chat.until_text(COUNTED)
    await chat.until_status("ready")
    assert answer.text == f"Let me. {COUNTED}"
    assert answer.part("tool-pay").state == "output-available"
    assert [m.role for m in await chat.messages()] == ["user", "assistant"]
    turn = await server.ended(before.turn_id)
    assert (turn["status"], turn["outputMessageId"]) == ("completed", answer.id)


async def test_stops(chat: ChatPage, server: Server) -> None:
    """Stop: the turn ends `cancelled`, what the reader saw is kept, nothing follows"""
    await chat.send("Count", **LONG)
    await chat.until_text("w5 ")
    await chat.press("Stop")
    await chat.until_status("ready")
    answer = await chat.answer()
    assert answer is not None

    def is_acknowledged() -> bool:
        told = [a.status for a in chat.answers if a.url.endswith("/turns/cancel")]
        return told == [204]

    await wait_until(is_acknowledged, "the cancel is acknowledged", PATIENCE_S)
    turn = await server.turn(answer.turn_id)
    assert turn["status"] == "cancelled"
    assert turn["outputMessageId"] == answer.id
    assert await server.said(chat.thread_id) == [("user", "Count"), ("assistant", answer.text)]
    await chat.send("And now", text="Here again.")
    await chat.until_text("Here again.")
    stopped = (await chat.messages())[1]
    assert stopped.text == answer.text
    statuses = [turn["status"] for turn in await server.turns(chat.thread_id)]
    assert statuses[0] == "cancelled"


async def test_looking_away_stops_nothing(chat: ChatPage, server: Server) -> None:
    """The SDK's `stop` alone only closes the stream: the turn goes on, `resumeStream` shows it"""
    await chat.send("Count", **COUNT)
    await chat.until_text("w2 ")
    await chat.press("Look away")
    await chat.until_status("ready")
    seen = await chat.answer()
    assert seen is not None
    assert seen.text != COUNTED
    assert (await server.turn(seen.turn_id))["status"] == "running"
    await chat.press("Resume")
    answer = await chat.until_text(LAST)
    await chat.until_status("ready")
    assert (answer.id, answer.text) == (seen.id, COUNTED)
    assert (await server.ended(seen.turn_id))["attempt"] == 1


async def test_stop_in_another_tab(tabs: Tabs, chat: ChatPage, server: Server) -> None:
    """Two tabs on one thread: the second attaches and stops, the first one ends as well"""
    await chat.send("Count", **LONG)
    await chat.until_text("w2 ")
    other = await tabs.new()
    await other.open(chat.thread_id)
    await other.until_text("w5 ")
    await other.press("Stop")
    first = await chat.finished()
    second = await other.finished()
    assert first.id == second.id
    assert (await server.ended(first.turn_id))["status"] == "cancelled"
    assert await chat.page.locator("#error").count() == 0


async def test_resumes_after_a_reload(chat: ChatPage, server: Server) -> None:
    """Reload while the answer streams: `resume` shows it from its beginning, once, to its end"""
    await chat.send("Count", **COUNT)
    before = await chat.until_text("w5 ")
    await chat.page.reload()
    answer = await chat.until_text(LAST)
    await chat.until_status("ready")
    assert (answer.id, answer.text) == (before.id, COUNTED)
    assert [m.role for m in await chat.messages()] == ["user", "assistant"]
    turn = await server.turn(answer.turn_id)
    assert (turn["status"], turn["attempt"]) == ("completed", 1)
    assert await server.said(chat.thread_id) == [("user", "Count"), ("assistant", COUNTED)]
    await chat.page.reload()
    assert (await chat.until_text(LAST)).text == COUNTED

    def asked() -> list[int]:
        stream = f"{chat.thread_id}/stream"
        return [answer.status for answer in chat.answers if answer.url.endswith(stream)]

    await wait_until(lambda: len(asked()) == 3, "the page has asked again", PATIENCE_S)
    assert asked() == [204, 200, 204]


async def test_a_message_behind_a_running_turn(tabs: Tabs, chat: ChatPage, server: Server) -> None:
    """A second tab's message waits its turn, is told its place, and is answered after"""
    await chat.send("Count", **COUNT)
    await chat.until_text("w1 ")
    other = await tabs.new()
    await other.open(chat.thread_id)
    await other.until_text("w2 ")
    await other.press("Look away")
    await other.until_status("ready")
    await other.send("Me too", text="Your turn.")
    await other.until_text("Your turn.")
    assert 'data-turn-queued {"position":1}' in await other.news()
    first, second = await server.turns(chat.thread_id)
    assert (first["status"], second["status"]) == ("completed", "completed")
    assert first["completedAt"] <= second["startedAt"]


async def test_regenerates(chat: ChatPage, server: Server) -> None:
    """Regenerate: another answer in the place of the last one, the question stays one"""
    await chat.send("Say it", text="First.")
    first = await chat.until_text("First.")
    await chat.finished()
    await chat.instruct(text="Second.")
    await chat.press("Again")
    second = await chat.until_text("Second.")
    await chat.finished()
    assert [m.text for m in await chat.messages()] == ["Say it", "Second."]
    assert second.id != first.id
    old, new = await server.turns(chat.thread_id)
    assert (new["status"], new["inputMessageId"]) == ("completed", old["inputMessageId"])
    assert new["settings"]["trigger"] == "regenerate-message"
    assert await server.said(chat.thread_id) == [("user", "Say it"), ("assistant", "Second.")]


async def test_regenerates_an_earlier_answer(chat: ChatPage, server: Server) -> None:
    """Regenerate an earlier answer: what was said behind it is gone, on both sides"""
    for text in ("one", "two"):
        await chat.send(text, text=f"Answer {text}.")
        await chat.until_text(f"Answer {text}.")
        await chat.finished()
    await chat.page.reload()
    await chat.until_text("Answer two.")
    await chat.instruct(text="Better.")
    await chat.press("Again", nth=0)
    await chat.until_text("Better.")
    await chat.finished()
    shown = [(m.role, m.text) for m in await chat.messages()]
    assert shown == [("user", "one"), ("assistant", "Better.")]
    assert await server.said(chat.thread_id) == shown


async def test_an_error_part(chat: ChatPage, server: Server) -> None:
    """A turn that fails: the page shows its error behind the text; try again answers"""
    await chat.send("Fail", text="Half of it", failAfter=2, intervalMs=0)
    await chat.until_status("error")
    shown = await chat.answer()
    assert shown is not None
    assert shown.text == "Half of "
    turn = await server.ended(shown.turn_id)
    assert (turn["status"], turn["error"]["code"]) == ("failed", "model_error")
    assert await chat.error() == turn["error"]["message"]
    await chat.instruct(text="Better now.")
    await chat.press("Retry")
    await chat.until_text("Better now.")
    await chat.until_status("ready")
    assert [m.text for m in await chat.messages()] == ["Fail", "Better now."]
    assert await server.said(chat.thread_id) == [("user", "Fail"), ("assistant", "Better now.")]


async def test_a_refusal(chat: ChatPage, server: Server) -> None:
    """A request that is refused before it streams (409, 422): an error, no turn, the chat lives"""
    await chat.send("x", body={"modelId": "nobody-has-this"})
    await chat.until_status("error")
    assert "modelId" in await chat.error()
    assert await server.turns(chat.thread_id) == []
    await server.client.post(
        f"{CHAT}/threads/{chat.thread_id}/turns",
        {"message": "busy", "modelId": "scripted", "settings": {"script": {"hangAfter": 1}}},
    )
    await chat.send("y", body={"onConflict": "reject"})

    async def is_told() -> bool:
        return "active turn" in await chat.error()

    await wait_until(is_told, "the page shows the conflict", PATIENCE_S)
    (busy,) = await server.turns(chat.thread_id)
    await chat.press("Stop")
    assert (await server.ended(busy["id"]))["status"] == "cancelled"
    await chat.send("z", text="Lives.")
    await chat.until_text("Lives.")


async def test_a_worker_dies(chat: ChatPage, server: Server) -> None:
    """A worker is killed under the answer: another one answers, the page is told which attempt"""
    await chat.send("Count", **COUNT)
    before = await chat.until_text("w5 ")
    (await server.product.holder(before.turn_id)).send(signal.SIGKILL)
    await chat.until_text(LAST)
    answer = await chat.finished()
    (attempt,) = [part for part in answer.parts if part.type.startswith("data-turn-attempt")]
    after = answer.parts[answer.parts.index(attempt) :]
    assert '"attempt":2' in attempt.text
    assert "".join(part.text for part in after if part.type == "text") == COUNTED
    turn = await server.turn(before.turn_id)
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    assert await server.said(chat.thread_id) == [("user", "Count"), ("assistant", COUNTED)]
    await chat.page.reload()
    assert (await chat.until_text(LAST)).text == COUNTED


async def test_the_api_dies(chat: ChatPage, server: Server) -> None:
    """The API is killed under the stream: an error, `resumeStream` on another, no word twice"""
    await chat.send("Count", **{**COUNT, "deltas": 300})
    before = await chat.until_text("w5 ")
    server.product.api.send(signal.SIGKILL)
    await chat.until_status("error")
    await wait_until(lambda: not server.product.api.is_running, "it is gone", PATIENCE_S)
    await server.product.be_whole()
    await chat.press("Resume")
    answer = await chat.until_text("w299 ")
    await chat.until_status("ready")
    assert answer.id == before.id
    assert answer.text == words(300)
    turn = await server.turn(answer.turn_id)
    assert (turn["status"], turn["attempt"]) == ("completed", 1)


async def test_a_deployment(chat: ChatPage, server: Server) -> None:
    """The API leaves in good order: the page is told, comes again by itself, no word twice"""
    await chat.send("Count", **{**COUNT, "deltas": 300})
    before = await chat.until_text("w5 ")
    await server.product.let_go(server.product.api)
    await server.product.be_whole()
    answer = await chat.until_text("w299 ")
    await chat.until_status("ready")
    assert answer.id == before.id
    assert answer.text == words(300)
    assert "data-turn-reconnect" in await chat.news()
    assert (await server.turn(answer.turn_id))["attempt"] == 1


async def test_somebody_elses_thread(chat: ChatPage, server: Server) -> None:
    """A thread of somebody else, and a session that was left: errors on the page, nothing else"""
    key = await server.product.add_user()
    theirs: Any = await type(server.client)(server.product.port, key).post(f"{CHAT}/threads", {})
    path = f"{CHAT}/threads/{theirs.json['id']}"
    status = await chat.page.evaluate(f"fetch('{path}/stream').then((answer) => answer.status)")
    assert status == 404
    await chat.page.evaluate("fetch('/api/v1/auth/logout', {method: 'POST'})")
    await chat.send("x", text="No.")
    await chat.until_status("error")
    assert "Not authenticated" in await chat.error()
    assert await server.turns(chat.thread_id) == []


async def test_a_picture(chat: ChatPage, server: Server) -> None:
    """A finished conversation, as the screenshot shows it"""
    tools = [{"name": "look_up", "args": {"train": "RJ 559"}, "result": {"free": 12}}]
    await chat.send(
        "Is there a seat to Graz tomorrow at nine?",
        reasoning="They want a train in the morning. I should look up free seats.",
        toolCalls=tools,
        text="There are twelve free seats in RJ 559.",
        intervalMs=5,
    )
    await chat.until_text("RJ 559")
    await chat.finished()
    await chat.send("Book one", approval={"text": "That costs 29 euros. ", "calls": [PAY]},
                    text="Booked and paid. Have a good journey!", intervalMs=5)  # fmt: skip
    await chat.until_part("tool-pay", "approval-requested")
    await chat.until_status("ready")
    await chat.press("Approve")
    await chat.until_text("journey!")
    await chat.finished()
    assert [t["status"] for t in await server.turns(chat.thread_id)] == ["completed"] * 2
    report.keep_picture(await chat.page.screenshot(full_page=True))
