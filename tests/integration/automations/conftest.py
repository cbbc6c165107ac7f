"""Automations over HTTP, in this process; their runner alone, or a worker where one is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from shared.metrics import Metrics
from shared.settings import Settings
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User, add_user, app
from worker.automations.runner import AutomationRunner

__all__ = ["add_user", "app", "runner", "user"]

AUTOMATIONS = "http://test/api/v1/automations"
RUNS = "http://test/api/v1/automation-runs"


@pytest.fixture
async def user(add_user: AddUser) -> User:
    return await add_user()


@pytest.fixture
def runner(app: Starlette, settings: Settings) -> AutomationRunner:
    """One of a worker that runs nothing else."""
    return AutomationRunner(database=app.state.database, settings=settings, metrics=Metrics())


@pytest.fixture
def automate(user: User) -> Callable[..., Awaitable[str]]:
    """`await automate(step("a"), …)`: a new automation's id."""

    async def automate(*steps: dict[str, Any], by: User = user) -> str:
        body = {"name": "A", "config": {"steps": list(steps)}}
        made = await by.post(AUTOMATIONS, json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    return automate


def step(id_: str, *depends_on: str, kind: str = "calculator", **more: Any) -> dict[str, Any]:
    arguments = {"expression": "1 + 1"} if kind == "calculator" else {}
    return {"id": id_, "kind": kind, "dependsOn": list(depends_on), "input": arguments, **more}


async def start(user: User, automation_id: str, **body: Any) -> str:
    """A new run's id."""
    started = await user.post(f"{AUTOMATIONS}/{automation_id}/runs", json=body)
    assert started.status_code == 202, started.text
    assert started.json()["status"] == "pending"
    return str(started.json()["id"])


async def read(user: User, run_id: str) -> dict[str, Any]:
    told = await user.get(f"{RUNS}/{run_id}")
    assert told.status_code == 200, told.text
    run: dict[str, Any] = told.json()
    return run


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["status"] for one in run["steps"]}


async def decide(user: User, run_id: str, **approved: bool) -> httpx.Response:
    decisions = [
        {"stepId": step_id, "approved": yes, "reason": "because"}
        for step_id, yes in approved.items()
    ]
    return await user.post(f"{RUNS}/{run_id}/actions", json={"decisions": decisions})


async def until(user: User, run_id: str, *wanted: str) -> dict[str, Any]:
    """The run once it has one of these statuses."""

    async def look() -> dict[str, Any] | None:
        run = await read(user, run_id)
        return run if run["status"] in wanted else None

    return dict(await wait_until(look, f"the run is {wanted}"))
