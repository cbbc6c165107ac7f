"""A turn that waits for a person: parked, decided, denied, expired, cancelled, lost and found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.errors import ApprovalConflict, InvalidRequest, TurnNotFound
from shared.ids import new_id
from shared.metrics import Metrics
from shared.service.approvals import ApprovalService
from shared.turn.approval import Decision
from shared.turn.events import (
    START,
    AwaitingApproval,
    Cursor,
    Event,
    EventBatch,
    MessageDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnStarted,
    decode_event,
)
from shared.turn.model import Principal, Turn
from shared.turn.state import TurnStatus
from tests.fixtures.system import (
    Api,
    MakeTurn,
    StartWorker,
    ends_once,
    events,
    follow_all,
    is_gapless,
    places,
    text_of,
)
from tests.fixtures.waiting import wait_until

PAY = {"name": "pay", "args": {"euros": 5}, "result": "paid"}
ASK = {"text": "Let me pay. ", "calls": [PAY]}


def service_of(api: Api) -> ApprovalService:
    return ApprovalService(api.database, api.turns, Metrics())


def who(turn: Turn) -> Principal:
    return Principal(turn.tenant_id, turn.user_id, new_id())


async def parked(api: Api, turn: Turn) -> Turn:
    """The turn once it waits for approvals."""

    async def look() -> Turn | None:
        now = await api.reload(turn)
        assert not now.is_terminal, now
        return now if now.status is TurnStatus.AWAITING_APPROVAL else None

    found: Turn = await wait_until(look, "the turn is parked")
    return found


async def decide(api: Api, turn: Turn, *, approved: bool = True, reason: str | None = None) -> Turn:
    decisions = [Decision(a.tool_call_id, approved, reason) for a in turn.approvals]
    return await service_of(api).decide(who(turn), turn.id, decisions)


async def messages_of(api: Api, turn: Turn) -> list[Any]:
    return await api.database.for_tenant(who(turn)).fetch_many(
        "list_output_messages", turn.tenant_id, turn.id
    )


async def follow_until(
    api: Api, turn: Turn, kind: type[Event], after: Cursor = START
) -> list[EventBatch]:
    """Every batch up to the one that ends with an event of `kind`."""
    batches: list[EventBatch] = []
    async with asyncio.timeout(20), api.hub.follow(turn, after) as follower:
        while not (batches and isinstance(decode_event(batches[-1].payloads[-1]), kind)):
            batches += await follower.read(1.0)
    return batches


# -- parking


async def test_a_turn_is_parked_with_what_it_has_said_and_asks_for(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn("pay", approval=ASK)))
    (asked,) = turn.approvals
    assert (asked.tool_name, asked.args) == ("pay", {"euros": 5})
    assert (asked.expires_at - asked.asked_at).total_seconds() == pytest.approx(86_400)
    assert turn.usage is not None
    assert turn.usage.output_tokens == 3
    (message,) = await messages_of(api, turn)
    assert message["content"] == "Let me pay. "
    assert [part["part_kind"] for part in message["raw_data"]["parts"]] == ["text", "tool-call"]
    row = await admin.fetchrow("select * from turns where id = $1", turn.id)
    assert (row["worker_id"], row["lease_until"], row["slot"]) == (None, None, 1)
    assert await admin.fetchval("select count(*) from usage") == 0
    await wait_until(lambda: not len(worker.parts.held), "no worker is kept busy", 5)
    told = events(await follow_until(api, turn, AwaitingApproval))
    assert [type(event).__name__ for event in told] == [
        "TurnStarted", "MessageDelta", "MessageDelta", "MessageDelta", "ToolCall",
        "AwaitingApproval",
    ]  # fmt: skip


async def test_an_approved_turn_goes_on_where_it_was(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    submitted = await api.submit(make_turn("pay", approval=ASK))
    turn = await parked(api, submitted)
    resumed = await decide(api, turn)
    assert resumed.status is TurnStatus.PENDING
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    first, returned, answer = await messages_of(api, turn)
    assert first["content"] == "Let me pay. "
    assert returned["raw_data"]["parts"][0]["outcome"] == "success"
    assert (answer["id"], answer["content"]) == (ended.output_message_id, "w0 w1 w2 ")
    assert ended.usage is not None
    assert ended.usage.output_tokens == 3 + 3, "both attempts"
    (bill,) = await admin.fetch("select * from usage")
    assert (bill["turn_id"], bill["output_tokens"]) == (turn.id, 6)

    batches = await follow_all(api.hub, submitted)
    assert is_gapless(places(batches))
    told = events(batches)
    assert ends_once(told)
    assert text_of(told) == "Let me pay. w0 w1 w2 ", "an attempt tells the whole turn"
    second = told[[isinstance(event, AwaitingApproval) for event in told].index(True) + 1 :]
    begin = second[0]
    assert isinstance(begin, TurnStarted)
    assert begin.retold == 2
    assert [type(event).__name__ for event in second[1:4]] == [
        "MessageDelta", "ToolCall", "ToolResult",
    ]  # fmt: skip


async def test_a_denied_call_is_not_made_and_the_model_is_told_why(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    await decide(api, turn, approved=False, reason="too dear")
    assert (await api.end_of(turn)).status is TurnStatus.COMPLETED
    _, returned, _ = await messages_of(api, turn)
    (part,) = returned["raw_data"]["parts"]
    assert (part["outcome"], part["content"]) == ("denied", "too dear")
    (result,) = [e for e in events(await follow_all(api.hub, turn)) if isinstance(e, ToolResult)]
    assert (result.denied, result.error) == (True, "too dear")


async def test_a_turn_may_be_parked_again(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval={**ASK, "times": 2})))
    await decide(api, turn)
    again = await wait_until(
        lambda: _parked_in(api, turn, attempt=2), "it is parked for the second time"
    )
    assert again.approvals[0].tool_call_id != turn.approvals[0].tool_call_id
    with pytest.raises(InvalidRequest) as caught:
        await service_of(api).decide(who(turn), turn.id, [])
    assert again.approvals[0].tool_call_id in caught.value.msg
    replayed = await decide(api, turn)
    assert replayed.status is TurnStatus.AWAITING_APPROVAL, "the first decisions, sent again"
    await decide(api, again)
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 3)
    roles = [message["role"] for message in await messages_of(api, turn)]
    assert roles == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert await admin.fetchval("select output_tokens from usage") == 3 + 3 + 3


async def _parked_in(api: Api, turn: Turn, *, attempt: int) -> Turn | None:
    now = await api.reload(turn)
    is_it = (now.status, now.attempt) == (TurnStatus.AWAITING_APPROVAL, attempt)
    return now if is_it else None


# -- its place in the line


async def test_a_parked_turn_keeps_its_place(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    behind = await api.submit(make_turn())
    await asyncio.sleep(2.0)  # longer than the sweeper takes to find what stalls
    assert (await api.reload(behind)).status is TurnStatus.PENDING
    await decide(api, turn)
    first, second = await api.ends_of([turn, behind])
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.ended_at <= second.started_at


async def test_of_a_wider_key_a_parked_turn_takes_one_place(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any, principal: Principal
) -> None:
    await admin.execute(
        "insert into concurrency_limits values ($1, 'wide', 2)", principal.tenant_id
    )
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(key="wide", approval=ASK)))
    others = [await api.submit(make_turn(key="wide")) for _ in range(5)]
    assert {t.status for t in await api.ends_of(others)} == {TurnStatus.COMPLETED}
    running = await api.submit(make_turn(key="wide", hangAfter=0))
    await wait_until(lambda: _is_running(api, running), "it runs beside the parked one")
    late = await api.submit(make_turn(key="wide"))
    await asyncio.sleep(1.0)
    assert (await api.reload(late)).status is TurnStatus.PENDING, "both places are taken"
    await decide(api, turn)
    assert (await api.end_of(turn)).status is TurnStatus.COMPLETED
    assert (await api.end_of(late)).status is TurnStatus.COMPLETED
    await api.cancels.cancel(who(running), running.id)


async def _is_running(api: Api, turn: Turn) -> bool:
    return (await api.reload(turn)).status is TurnStatus.RUNNING


# -- deciding


async def test_decisions_must_cover_what_is_open_and_nothing_else(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval={"calls": [PAY, PAY]})))
    first, second = (asked.tool_call_id for asked in turn.approvals)
    service = service_of(api)
    for decisions, told in (
        ([], first),
        ([Decision(first, True)], second),
        ([Decision(first, True), Decision(second, True), Decision("x", True)], "no such tool call"),
        ([Decision(first, True), Decision(first, True), Decision(second, True)], "twice"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            await service.decide(who(turn), turn.id, decisions)
        assert (await api.reload(turn)).status is TurnStatus.AWAITING_APPROVAL
    mixed = [Decision(first, True), Decision(second, False, "no")]
    await service.decide(who(turn), turn.id, mixed)
    await api.end_of(turn)
    _, returned, _ = await messages_of(api, turn)
    parts = returned["raw_data"]["parts"]
    assert [part["outcome"] for part in parts] == ["success", "denied"]


async def test_the_same_again_is_no_news_and_another_decision_a_conflict(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    await worker.drain()
    await decide(api, turn)
    assert (await decide(api, turn)).status is TurnStatus.PENDING
    for changed in ({"approved": False}, {"reason": "because"}):
        with pytest.raises(ApprovalConflict):
            await decide(api, turn, **changed)
    await start_worker()
    ended = await api.end_of(turn)
    assert (await decide(api, turn)).status is ended.status is TurnStatus.COMPLETED
    with pytest.raises(ApprovalConflict):
        await decide(api, turn, approved=False)


async def test_what_waits_for_nobody_cannot_be_decided(api: Api, make_turn: MakeTurn) -> None:
    turn = await api.submit(make_turn())
    with pytest.raises(ApprovalConflict):
        await service_of(api).decide(who(turn), turn.id, [Decision("x", True)])
    stranger = Principal(turn.tenant_id, new_id(), new_id())
    with pytest.raises(TurnNotFound):
        await service_of(api).decide(stranger, turn.id, [Decision("x", True)])


async def test_of_two_who_decide_at_once_one_is_heard(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    apis = [await open_api() for _ in range(2)]
    await start_worker()
    for _ in range(10):
        turn = await parked(apis[0], await apis[0].submit(make_turn(approval=ASK)))
        outcomes = await asyncio.gather(
            decide(apis[0], turn, approved=True),
            decide(apis[1], turn, approved=False, reason="no"),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "ApprovalConflict", "Turn",
        ]  # fmt: skip
        approved = isinstance(outcomes[0], Turn)
        await apis[0].end_of(turn)
        (row,) = await admin.fetch("select * from turn_approvals where turn_id = $1", turn.id)
        assert row["approved"] is approved
        _, returned, _ = await messages_of(apis[0], turn)
        outcome = returned["raw_data"]["parts"][0]["outcome"]
        assert outcome == ("success" if approved else "denied")


async def test_of_two_who_say_the_same_at_once_both_are_right(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    apis = [await open_api() for _ in range(2)]
    await start_worker()
    for _ in range(5):
        turn = await parked(apis[0], await apis[0].submit(make_turn(approval=ASK)))
        outcomes = await asyncio.gather(*(decide(api, turn) for api in apis))
        assert {outcome.id for outcome in outcomes} == {turn.id}
        assert (await apis[0].end_of(turn)).attempt == 2


# -- waiting


async def test_who_waits_at_a_parked_turn_hears_that_it_is_parked_anew(
    api: Api, make_turn: MakeTurn, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was decided, ran and asked again between two looks."""
    monkeypatch.setattr("shared.service.turns.END_POLL_S", 0.05)
    submitted = await api.submit(make_turn())
    park = "update turns set status = 'awaiting_approval', slot = 1, parked_count = $1"
    await admin.execute(park, 1)
    turn = await parked(api, submitted)
    assert (await api.turns.wait(who(turn), turn, 0.3)).parked_count == 1, "that is no news"
    waiting = asyncio.create_task(api.turns.wait(who(turn), turn, 60))
    await wait_until(lambda: api.hub._awaited_ends, "it waits")
    await admin.execute(park, 2)
    async with asyncio.timeout(20):
        assert (await waiting).parked_count == 2


# -- time


async def test_who_does_not_decide_in_time_has_denied(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker(approval_ttl_s=0.3)
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    (row,) = await admin.fetch("select * from turn_approvals")
    assert (row["approved"], row["decided_by"]) == (False, None)
    assert "expired" in row["reason"]
    _, returned, _ = await messages_of(api, turn)
    assert "expired" in returned["content"]


async def test_who_does_not_decide_in_time_has_cancelled_where_that_is_the_policy(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker(approval_ttl_s=0.3, approval_expiry="cancel")
    turn = await api.submit(make_turn(approval=ASK))
    behind = await api.submit(make_turn())
    told = events(await follow_all(api.hub, turn))
    assert ends_once(told)
    ended = await api.end_of(turn)
    assert ended.status is TurnStatus.CANCELLED
    assert ended.error is not None
    assert ended.error["code"] == "approval_expired"
    (message,) = await messages_of(api, turn)
    assert ended.output_message_id == message["id"]
    assert await admin.fetchval("select output_tokens from usage where turn_id = $1", turn.id) == 3
    assert (await api.end_of(behind)).status is TurnStatus.COMPLETED
    decisions = [Decision(asked["tool_call_id"], True) for asked in await _asked(admin)]
    with pytest.raises(ApprovalConflict):
        await service_of(api).decide(who(turn), turn.id, decisions)


async def _asked(admin: Any) -> list[Any]:
    return list(await admin.fetch("select * from turn_approvals"))


async def test_a_model_that_asks_for_ever_ends(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    admin: Any,
) -> None:
    monkeypatch.setattr("worker.turn_runner.MOST_APPROVAL_ROUNDS", 2)
    await start_worker(approval_ttl_s=0.2)
    turn = await api.submit(make_turn(approval=ASK | {"times": 5}))

    async def has_ended() -> Turn | None:
        now = await api.reload(turn)
        return now if now.is_terminal else None

    ended = await wait_until(has_ended, "it ends")
    assert (ended.status, ended.parked_count) == (TurnStatus.FAILED, 2)
    assert ended.error is not None
    assert ended.error["code"] == "approval_limit"
    assert await admin.fetchval("select output_tokens from usage") == 3 * 3, "all rounds are billed"


async def test_what_a_turn_goes_on_from_must_be_readable_in_time(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    first = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    await first.drain()
    await decide(api, turn)
    async with admin.transaction():
        await admin.execute("lock table turn_approvals in access exclusive mode")
        await start_worker(turn_timeout_s=1.0)
        ended = await api.end_of(turn)
    assert ended.error is not None
    assert ended.error["code"] == "timeout"


# -- cancelling


async def test_a_parked_turn_is_cancelled_at_once(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    await worker.drain()
    cancelled = await api.cancels.cancel(who(turn), turn.id, "Let me")
    assert cancelled.status is TurnStatus.CANCELLED
    (message,) = await messages_of(api, turn)
    assert cancelled.output_message_id == message["id"]
    assert message["content"] == "Let me pay. "
    assert await admin.fetchval("select output_tokens from usage") == 3
    told = events(await follow_all(api.hub, turn))
    assert ends_once(told)
    with pytest.raises(ApprovalConflict):
        await decide(api, turn)


@pytest.mark.parametrize("ignore_ms", [0, 5000])
async def test_a_turn_that_has_gone_on_is_cancelled_with_all_of_its_text(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any, ignore_ms: int
) -> None:
    await start_worker()
    new = make_turn(approval=ASK, hangAfter=2, ignoreCancelMs=ignore_ms)
    turn = await parked(api, await api.submit(new))
    await decide(api, turn)
    await follow_until(api, turn, MessageDelta, Cursor(2, 4))
    cancelled = await api.cancels.cancel(who(turn), turn.id)
    assert cancelled.status is TurnStatus.CANCELLED
    said = [m["content"] for m in await messages_of(api, turn) if m["role"] == "assistant"]
    assert said == ["Let me pay. ", "w0 w1 "], "graceful or forced, nothing twice"
    assert cancelled.usage is not None
    assert cancelled.usage.output_tokens == 5
    assert await admin.fetchval("select output_tokens from usage") == 5


@pytest.mark.parametrize("how", ["graceful", "forced", "reaped"])
async def test_a_turn_that_has_gone_on_and_not_spoken_keeps_what_it_said(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any, how: str
) -> None:
    worker = await start_worker(reaper_interval_s=60.0, heartbeat_s=60.0, lease_s=600.0)
    lingers_ms = 0 if how == "graceful" else 5000
    new = make_turn(approval=ASK, hangAfter=0, ignoreCancelMs=lingers_ms)
    turn = await parked(api, await api.submit(new))
    (said,) = await messages_of(api, turn)
    await decide(api, turn)
    await follow_until(api, turn, ToolResult, Cursor(1, turn.last_seq))
    if how == "reaped":
        await admin.execute(
            "update turns set cancel_requested_at = now(), lease_until = now() - interval '1 s'"
        )
        assert await worker.parts.reaper.reap([]) == 1
    else:
        await api.cancels.cancel(who(turn), turn.id)
    ended = await api.end_of(turn)
    assert ended.status is TurnStatus.CANCELLED
    assert ended.output_message_id == said["id"]
    told = events(await follow_all(api.hub, turn))
    assert isinstance(told[-1], TurnEnded)
    assert told[-1].output_message_id == str(said["id"])


async def test_a_cancel_that_comes_as_the_turn_is_parked_wins(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(approval=ASK, startDelayMs=300))
    await wait_until(lambda: _is_running(api, turn), "it runs")
    # As the API does, which dies before it tells the worker.
    await admin.execute("update turns set cancel_requested_at = now() where id = $1", turn.id)
    assert (await api.end_of(turn)).status is TurnStatus.CANCELLED


# -- losses


async def test_a_decision_that_nobody_dispatched_is_found(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    monkeypatch.setattr(api.turns, "announce_resumed", lambda turn: None)  # the API dies here
    await decide(api, turn)
    assert (await api.end_of(turn)).status is TurnStatus.COMPLETED


async def test_a_parked_turn_outlives_redis_workers_and_api(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    api = await open_api()
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    behind = await api.submit(make_turn())
    await api.connection.call("FLUSHALL")
    await worker.kill()
    await start_worker()
    api = await open_api()
    await asyncio.sleep(2.0)  # what is rebuilt, and what stalls
    assert (await api.reload(turn)).approvals == turn.approvals
    assert (await api.reload(behind)).status is TurnStatus.PENDING, "it keeps its place"
    told = events(await follow_until(api, turn, AwaitingApproval))
    assert text_of(told) == "Let me pay. ", "without a log Postgres tells"
    assert [type(event) for event in told[-2:]] == [ToolCall, AwaitingApproval]
    await decide(api, turn)
    first, second = await api.ends_of([turn, behind])
    assert (first.status, second.status) == (TurnStatus.COMPLETED, TurnStatus.COMPLETED)
    told = events(await follow_all(api.hub, turn))
    assert text_of(told).startswith("Let me pay. "), "the new log tells the whole turn"


async def test_a_reader_hears_of_approvals_though_the_log_was_lost(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK)))
    await worker.drain()
    await api.connection.call("FLUSHALL")
    told = events(await follow_until(api, turn, AwaitingApproval, Cursor(1, 2)))
    assert [type(event).__name__ for event in told] == [
        "TurnSnapshot", "ToolCall", "AwaitingApproval",
    ], "what is asked about may have been lost"  # fmt: skip


async def test_a_worker_that_dies_behind_a_decision_is_replaced(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    worker = await start_worker()
    turn = await parked(api, await api.submit(make_turn(approval=ASK, hangAfter=1, hangMs=1500)))
    await decide(api, turn)
    await follow_until(api, turn, MessageDelta, Cursor(2, 4))
    (row,) = await _asked(admin)
    assert row["outcome"] == '{"result": "paid"}', "noted before anything else was said"
    await admin.execute("""update turn_approvals set outcome = '{"result": "paid before"}'""")
    await worker.kill()
    await start_worker()
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 3)
    contents = [message["content"] for message in await messages_of(api, turn)]
    assert contents == ["Let me pay. ", "paid before", "w0 w1 w2 "], "not made again"
    assert ended.usage is not None
    assert ended.usage.output_tokens == 6, "the lost attempt is not in it"


async def test_a_poisoned_turn_is_billed_for_what_it_used_before(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    worker = await start_worker(crash_budget=1)
    turn = await parked(api, await api.submit(make_turn(approval=ASK, hangAfter=1)))
    await decide(api, turn)
    await follow_until(api, turn, MessageDelta, Cursor(2, 4))
    await worker.kill()
    await start_worker(crash_budget=1)
    ended = await api.end_of(turn)
    assert (ended.status, ended.usage and ended.usage.output_tokens) == (TurnStatus.FAILED, 3)
    assert await admin.fetchval("select output_tokens from usage") == 3


async def test_who_waits_for_the_end_hears_of_the_parking(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(approval=ASK, startDelayMs=200))
    async with asyncio.timeout(4):
        known = await api.turns.wait(who(turn), turn, 30.0)
    assert known.status is TurnStatus.AWAITING_APPROVAL
    waiting = asyncio.create_task(api.turns.wait(who(turn), known, 30.0))
    await asyncio.sleep(0.3)
    assert not waiting.done(), "that it is parked is no news any more"
    await decide(api, known)
    async with asyncio.timeout(5):
        assert isinstance(await waiting, Turn)
    assert (await waiting).status is TurnStatus.COMPLETED
