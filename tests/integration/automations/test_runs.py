"""Runs: every step once, whatever is lost; gates, cancels and failures end where they should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from shared.errors import PostgresUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection
from shared.settings import Settings
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import User
from tests.integration.automations.conftest import (
    AUTOMATIONS,
    RUNS,
    decide,
    read,
    start,
    statuses,
    step,
    until,
)
from worker.automations import runner as module
from worker.automations.calls import StepCaller
from worker.automations.runner import MAX_LOST_WORKERS, NOBODY_DECIDED, AutomationRunner
from worker.jobs import run_automations

Automate = Callable[..., Awaitable[str]]
GATE = "approval_gate"
CHAIN = (step("a"), step("b", "a"), step("c", "b"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the steps that are really made, in order."""
    made: list[str] = []
    call = StepCaller.call

    async def count(caller: StepCaller, run: Any, state: Any) -> Any:
        made.append(state.id)
        return await call(caller, run, state)

    monkeypatch.setattr(StepCaller, "call", count)
    return made


class Slow:
    """Stands in for a tool that takes until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_id: str) -> None:
        self.begun, self.go_on, self.broken_off = (asyncio.Event() for _ in range(3))
        self._context = monkeypatch.context()
        patch = self._context.__enter__()
        call = StepCaller.call

        async def wait(caller: StepCaller, run: Any, state: Any) -> Any:
            if state.id != step_id:
                return await call(caller, run, state)
            self.begun.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.broken_off.set()
                raise
            return {"result": "of the slow one"}

        patch.setattr(StepCaller, "call", wait)

    def undo(self) -> None:
        """Calls from now on are made at once."""
        self._context.__exit__(None, None, None)


async def be_due(admin: Any) -> None:
    """What waits may be claimed now; a worker that runs something counts as lost."""
    await admin.execute("update automation_runs set due_at = now() where due_at is not null")


async def test_steps_are_made_in_order_each_once(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str]
) -> None:
    run_id = await start(user, await automate(*CHAIN))
    assert await runner.run_next()
    assert not await runner.run_next()
    assert calls == ["a", "b", "c"]
    run = await read(user, run_id)
    assert (run["status"], run["error"]) == ("completed", None)
    assert run["durationSeconds"] is not None
    times = []
    for one in run["steps"]:
        assert (one["status"], one["output"], one["error"]) == ("completed", {"result": "2"}, None)
        assert one["durationSeconds"] >= 0
        times += [one["startedAt"], one["completedAt"]]
    assert times == sorted(times)


async def test_a_failed_step_skips_its_dependents_and_fails_the_run(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str]
) -> None:
    wrong = step("b", "a") | {"input": {"expression": "1/0"}}
    steps = (step("a"), wrong, step("c", "b"), step("d", "c"), step("e", "a"))
    run_id = await start(user, await automate(*steps))
    assert await runner.run_next()
    run = await read(user, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "step_failed")
    assert run["error"]["message"] == "Step b failed"
    assert statuses(run) == {
        "a": "completed", "b": "failed", "c": "skipped", "d": "skipped", "e": "completed",
    }  # fmt: skip
    assert run["steps"][1]["error"] == "Division by zero"
    assert calls == ["a", "b", "e"]


async def test_wrong_arguments_and_a_slow_tool_are_failed_steps(
    user: User, automate: Automate, app: Starlette, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from worker.tools.current_time import CurrentTime

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(CurrentTime, "run", never)
    quick = settings.model_copy(update={"tool_timeout_s": 0.2})
    runner = AutomationRunner(database=app.state.database, settings=quick, metrics=Metrics())
    run_id = await start(
        user,
        await automate(step("a") | {"input": {"x": 1}}, step("b", kind="current_time"), step("c")),
    )
    assert await runner.run_next()
    first, second, third = (await read(user, run_id))["steps"]
    assert first["error"].startswith("Wrong arguments: ")
    assert second["error"] == "The tool did not answer within 0.2 s"
    assert third["status"] == "completed"


async def test_the_results_of_a_run_are_bounded(
    user: User, automate: Automate, runner: AutomationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OUTPUT_BYTES", 30)
    run_id = await start(user, await automate(*CHAIN))
    assert await runner.run_next()
    run = await read(user, run_id)
    assert statuses(run) == {"a": "completed", "b": "completed", "c": "failed"}
    assert "at most 30 bytes" in run["steps"][2]["error"]


# -- gates


async def test_a_gate_parks_the_run_and_holds_no_worker(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str], admin: Any
) -> None:
    steps = (step("a"), step("g", "a", kind=GATE), step("b", "g"), step("c"))
    run_id = await start(user, await automate(*steps))
    early = await decide(user, run_id, g=True)
    assert early.status_code == 409, "nobody is asked yet"
    assert await runner.run_next()
    assert not await runner.run_next()
    assert calls == ["a", "c"]
    run = await read(user, run_id)
    assert (run["status"], run["completedAt"]) == ("awaiting_approval", None)
    gate = run["steps"][1]
    assert (gate["status"], gate["decision"]) == ("awaiting_approval", None)
    assert gate["expiresAt"] > gate["startedAt"]
    decided = await decide(user, run_id, g=True)
    assert (decided.status_code, decided.json()["status"]) == (200, "pending")
    again = await decide(user, run_id, g=True)
    assert (again.status_code, again.json()) == (200, decided.json()), "the same again"
    assert (await decide(user, run_id, g=False)).status_code == 409
    assert await runner.run_next()
    run = await read(user, run_id)
    assert run["status"] == "completed"
    assert run["steps"][1]["decision"] == {
        "approved": True, "reason": "because", "decidedBy": run["createdBy"],
        "decidedAt": run["steps"][1]["completedAt"],
    }  # fmt: skip
    assert calls == ["a", "c", "b"]
    assert (await decide(user, run_id, g=True)).status_code == 200


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"decisions": []}, ["decisions"]),
        ({}, ["decisions"]),
        ({"decisions": [{"stepId": "g"}]}, ["decisions", 0, "approved"]),
        ({"decisions": [{"stepId": "g", "approved": 1}]}, ["decisions", 0, "approved"]),
        ({"decisions": [{"stepId": "x", "approved": True}]}, ["decisions", 0, "stepId"]),
        ({"decisions": [{"stepId": "a", "approved": True}]}, ["decisions", 0, "stepId"]),
        ({"decisions": [{"stepId": "g", "approved": True}] * 2}, ["decisions", 1, "stepId"]),
    ],
)
async def test_a_decision_names_an_open_gate(
    user: User, automate: Automate, runner: AutomationRunner, body: Any, loc: list[Any]
) -> None:
    run_id = await start(user, await automate(step("a"), step("g", kind=GATE)))
    assert await runner.run_next()
    refused = await user.post(f"{RUNS}/{run_id}/actions", json=body)
    assert refused.status_code == 422, refused.text
    assert refused.json()["detail"][0]["loc"] == ["body", *loc]
    assert (await read(user, run_id))["status"] == "awaiting_approval"


async def test_gates_that_are_open_together_are_decided_one_by_one(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str]
) -> None:
    steps = (step("g", kind=GATE), step("h", kind=GATE), step("a", "g"), step("b", "h"))
    run_id = await start(user, await automate(*steps))
    assert await runner.run_next()
    assert (await decide(user, run_id, h=True)).status_code == 200
    assert await runner.run_next()
    assert calls == ["b"]
    assert statuses(await read(user, run_id))["g"] == "awaiting_approval"
    await decide(user, run_id, g=False)
    assert await runner.run_next()
    run = await read(user, run_id)
    assert (run["status"], run["error"]["code"], calls) == ("failed", "denied", ["b"])


async def test_a_decision_while_the_run_goes_on_is_not_overlooked(
    user: User, automate: Automate, runner: AutomationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that makes a step believes the other gate open: parked so, it would wait a day."""
    steps = (step("g", kind=GATE), step("h", kind=GATE), step("a", "g"), step("b", "h"))
    run_id = await start(user, await automate(*steps))
    assert await runner.run_next()
    await decide(user, run_id, g=True)
    slow = Slow(monkeypatch, "a")
    going = asyncio.create_task(runner.run_next())
    await slow.begun.wait()
    assert (await decide(user, run_id, h=True)).json()["status"] == "running"
    slow.go_on.set()
    assert await going
    slow.undo()
    assert (await read(user, run_id))["status"] == "completed"


async def test_nobody_decides_in_time(
    user: User, automate: Automate, app: Starlette, settings: Settings
) -> None:
    quick = settings.model_copy(update={"approval_ttl_s": 0.2})
    runner = AutomationRunner(database=app.state.database, settings=quick, metrics=Metrics())
    run_id = await start(user, await automate(step("g", kind=GATE), step("a", "g")))
    assert await runner.run_next()
    assert (await read(user, run_id))["status"] == "awaiting_approval"

    async def is_claimed() -> bool:
        return await runner.run_next()

    await wait_until(is_claimed, "the clock decides")
    run = await read(user, run_id)
    assert statuses(run) == {"g": "denied", "a": "skipped"}
    decision = run["steps"][0]["decision"]
    assert (decision["approved"], decision["reason"]) == (False, NOBODY_DECIDED)
    assert decision["decidedBy"] is None
    assert (await decide(user, run_id, g=False)).status_code == 409


# -- cancel


async def test_a_run_that_waits_is_cancelled_at_once(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str]
) -> None:
    run_id = await start(user, await automate(step("a"), step("g", kind=GATE)))
    cancelled = await user.post(f"{RUNS}/{run_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert statuses(cancelled.json()) == {"a": "skipped", "g": "skipped"}
    assert not await runner.run_next()
    again = await user.post(f"{RUNS}/{run_id}/cancel")
    assert (again.status_code, again.json()) == (200, cancelled.json())
    assert (await decide(user, run_id, g=True)).status_code == 409
    parked = await start(user, await automate(step("g", kind=GATE)))
    assert await runner.run_next()
    assert (await user.post(f"{RUNS}/{parked}/cancel")).json()["status"] == "cancelled"
    assert calls == []


async def test_a_cancel_breaks_off_the_step_under_way(
    user: User, automate: Automate, runner: AutomationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(user, await automate(*CHAIN))
    slow = Slow(monkeypatch, "b")
    going = asyncio.create_task(runner.run_next())
    await slow.begun.wait()
    cancelled = (await user.post(f"{RUNS}/{run_id}/cancel")).json()
    assert statuses(cancelled) == {"a": "completed", "b": "cancelled", "c": "skipped"}
    async with asyncio.timeout(5):
        assert await going
    assert slow.broken_off.is_set()
    slow.undo()
    assert await read(user, run_id) == cancelled, "nothing is written behind the cancel"


async def test_a_deleted_automation_stops_its_runs(
    user: User, automate: Automate, runner: AutomationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation_id = await automate(*CHAIN)
    await start(user, automation_id)
    slow = Slow(monkeypatch, "a")
    going = asyncio.create_task(runner.run_next())
    await slow.begun.wait()
    assert (await user.delete(f"{AUTOMATIONS}/{automation_id}")).status_code == 204
    async with asyncio.timeout(5):
        assert await going
    slow.undo()
    assert slow.broken_off.is_set()


# -- what is lost


async def test_a_lost_worker_leaves_the_rest_to_another(
    user: User, automate: Automate, runner: AutomationRunner, app: Starlette, settings: Settings,
    calls: list[str], admin: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Finished steps are not made again; what the lost one says afterwards does not count."""
    run_id = await start(user, await automate(*CHAIN))
    stopped = settings.model_copy(update={"heartbeat_s": 3600.0})
    lost = AutomationRunner(database=app.state.database, settings=stopped, metrics=Metrics())
    slow = Slow(monkeypatch, "b")
    going = asyncio.create_task(lost.run_next())
    await slow.begun.wait()
    assert not await runner.run_next(), "its lease holds"
    await be_due(admin)
    slow.undo()
    assert await runner.run_next()
    done = await read(user, run_id)
    slow.go_on.set()
    assert await going
    assert await read(user, run_id) == done
    assert done["status"] == "completed"
    assert done["steps"][1]["output"] == {"result": "2"}
    assert calls == ["a", "b", "c"], "b was begun by the lost one as well"
    assert await admin.fetchval("select attempt from automation_runs") == 2


async def test_a_lease_is_kept_while_a_step_takes_its_time(
    user: User, automate: Automate, app: Starlette, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    quick = settings.model_copy(update={"lease_s": 1.0, "heartbeat_s": 0.1})
    runner = AutomationRunner(database=app.state.database, settings=quick, metrics=Metrics())
    run_id = await start(user, await automate(step("a")))
    slow = Slow(monkeypatch, "a")
    going = asyncio.create_task(runner.run_next())
    await slow.begun.wait()
    for _ in range(8):
        await asyncio.sleep(0.2)
        assert not await runner.run_next()
    slow.go_on.set()
    assert await going
    slow.undo()
    assert (await read(user, run_id))["status"] == "completed"


async def test_a_step_that_takes_its_workers_along_fails_the_run(
    user: User, automate: Automate, runner: AutomationRunner, app: Starlette, admin: Any
) -> None:
    run_id = await start(user, await automate(*CHAIN))
    database: Database = app.state.database
    for _ in range(MAX_LOST_WORKERS):  # claimed, begun, and never heard of again
        row = await database.fetch_one("claim_automation_run", 60.0, MAX_LOST_WORKERS)
        assert row is not None
        held = (row["id"], row["tenant_id"], row["attempt"])
        assert await database.fetch_one("begin_automation_step", *held, 60.0, 1)
        await be_due(admin)
    assert await runner.run_next()
    run = await read(user, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "poison")
    assert statuses(run) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert not await runner.run_next()


async def test_a_worker_that_leaves_hands_its_run_back(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str], admin: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_id = await start(user, await automate(*CHAIN))
    slow = Slow(monkeypatch, "b")
    leaving = asyncio.create_task(runner.run())
    await slow.begun.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    slow.undo()
    run = await read(user, run_id)
    assert (run["status"], statuses(run)["b"]) == ("pending", "pending")
    assert await admin.fetchval("select crash_count from automation_runs") == 0
    assert await runner.run_next()
    assert (await read(user, run_id))["status"] == "completed"
    assert calls == ["a", "b", "c"]


async def test_a_result_outlives_a_postgres_that_is_away(
    user: User, automate: Automate, runner: AutomationRunner, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each write is refused once before it is made, and its answer lost once afterwards."""
    monkeypatch.setattr("worker.patience.PAUSE_S", 0.01)
    run_id = await start(user, await automate(*CHAIN))
    fetch, seen = Database.fetch_one, []

    async def fetch_badly(database: Database, name: str, *args: Any) -> Any:
        if "automation" not in name or name.startswith("claim"):
            return await fetch(database, name, *args)
        seen.append(name)
        if len(seen) % 3 == 1:
            raise PostgresUnavailable("away")
        row = await fetch(database, name, *args)
        if len(seen) % 3 == 2:
            raise PostgresUnavailable("the answer was lost")
        return row

    monkeypatch.setattr(Database, "fetch_one", fetch_badly)
    assert await runner.run_next()
    monkeypatch.undo()
    assert (await read(user, run_id))["status"] == "completed"
    assert seen.count("finish_automation_step") == 9


async def test_two_workers_never_make_the_same_step(
    user: User, automate: Automate, runner: AutomationRunner, calls: list[str]
) -> None:
    automation_id = await automate(*CHAIN)
    runs = [await start(user, automation_id) for _ in range(6)]

    async def work() -> None:
        misses = 0
        while misses < 10:
            misses = 0 if await runner.run_next() else misses + 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
    assert sorted(calls) == sorted("abc" * 6)
    assert {(await read(user, run_id))["status"] for run_id in runs} == {"completed"}


# -- in a worker


async def test_a_ring_is_heard_and_a_second_one_does_nothing(
    user: User, automate: Automate, start_worker: StartWorker, calls: list[str]
) -> None:
    """Nobody looks by himself here."""
    worker = await start_worker(automation_poll_s=3600.0)
    run_id = await start(user, await automate(*CHAIN))
    await until(user, run_id, "completed")
    for _ in range(3):
        await run_automations({"automations": worker.parts.automations})
    gated = await start(user, await automate(step("g", kind=GATE), step("d", "g")))
    await until(user, gated, "awaiting_approval")
    await decide(user, gated, g=True)
    await until(user, gated, "completed")
    assert calls == ["a", "b", "c", "d"]


async def test_a_ring_that_was_lost_is_not_needed(
    user: User, automate: Automate, start_worker: StartWorker, redis: RedisConnection
) -> None:
    run_id = await start(user, await automate(*CHAIN))
    await redis.call("FLUSHDB")
    await start_worker(automation_poll_s=0.1)
    await until(user, run_id, "completed")


async def test_a_killed_worker_is_followed_by_another(
    user: User, automate: Automate, start_worker: StartWorker, calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_id = await start(user, await automate(*CHAIN))
    slow = Slow(monkeypatch, "b")
    doomed = await start_worker(automation_poll_s=0.1, lease_s=1.0)
    await slow.begun.wait()
    await doomed.kill()
    slow.undo()
    assert calls == ["a"]
    await start_worker(automation_poll_s=0.1)
    run = await until(user, run_id, "completed")
    assert calls == ["a", "b", "c"]
    assert run["steps"][0]["output"] == {"result": "2"}


async def test_turns_go_on_beside_it(
    user: User, automate: Automate, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation_id = await automate(step("a"))
    slow = Slow(monkeypatch, "a")
    await start_worker(automation_poll_s=0.1)
    for _ in range(6):
        await start(user, automation_id)
    await slow.begun.wait()
    answered = await user.post(
        f"/threads/{await user.thread()}/turns",
        json={"message": "x", "modelId": "scripted"},
        headers={"prefer": "wait=10"},
    )
    assert answered.json()["status"] == "completed"
    slow.undo()
