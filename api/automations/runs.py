"""Runs of automations: start, list, read, decide on gates, cancel."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.automations.automations import AUTOMATION
from api.automations.schemas import (
    AutomationRun,
    AutomationRunDetail,
    AutomationRunList,
    AutomationRunListQuery,
    DecideRun,
    StartRun,
    run_to_dict,
    step_to_dict,
)
from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response

RUNS: Final = "/api/v1/automation-runs"
RUN: Final = f"{RUNS}/{{run_id}}"


async def start_automation_run(request: Request) -> Response:
    """Starts a run in the caller's name. A draft may be run as well: that tries it.

    409: the automation is paused, or holds a step that this deployment does not run.
    """
    principal = await authenticate(request)
    automation_id = path_uuid(request, "automation_id")
    body = await read_model(request, StartRun)
    row = await state_of(request).automation_runs.start(
        principal, automation_id, body.version_number
    )
    headers = {"location": RUN.format(run_id=row["id"])}
    return json_response(run_to_dict(row), HTTPStatus.ACCEPTED, headers)


async def list_automation_runs(request: Request) -> Response:
    """The tenant's runs, newest first, without their steps."""
    principal = await authenticate(request)
    query = read_query(request, AutomationRunListQuery)
    rows, total = await state_of(request).automation_runs.list_runs(
        principal,
        status=query.status,
        automation_id=query.automation_id,
        limit=query.limit,
        offset=query.offset,
    )
    return json_response({"items": [run_to_dict(row) for row in rows], "total": total})


async def get_automation_run(request: Request) -> Response:
    """One run with its steps."""
    principal = await authenticate(request)
    service = state_of(request).automation_runs
    return _detail(*await service.get(principal, path_uuid(request, "run_id")))


async def decide_automation_run(request: Request) -> Response:
    """Decides on open approval gates; the run goes on. The same again changes nothing.

    A gate that was decided otherwise, or that nobody is asked about, is answered with 409.
    """
    principal = await authenticate(request, is_vital=True)
    run_id = path_uuid(request, "run_id")
    body = await read_model(request, DecideRun)
    decisions = [decision.as_decision() for decision in body.decisions]
    return _detail(*await state_of(request).automation_runs.decide(principal, run_id, decisions))


async def cancel_automation_run(request: Request) -> Response:
    """Ends a run; what it has done stays. One that is over is answered as it is."""
    principal = await authenticate(request, is_vital=True)
    service = state_of(request).automation_runs
    return _detail(*await service.cancel(principal, path_uuid(request, "run_id")))


def _detail(run: Any, steps: Any) -> Response:
    return json_response({**run_to_dict(run), "steps": [step_to_dict(step) for step in steps]})


OPERATIONS: Final = (
    Operation(
        "POST", f"{AUTOMATION}/runs", start_automation_run, "automations", "Run an automation",
        body=StartRun, responses={HTTPStatus.ACCEPTED: AutomationRun}, errors=(409,),
    ),
    Operation(
        "GET", RUNS, list_automation_runs, "automations", "List automation runs",
        query=AutomationRunListQuery, responses={HTTPStatus.OK: AutomationRunList},
    ),
    Operation(
        "GET", RUN, get_automation_run, "automations", "Get an automation run",
        responses={HTTPStatus.OK: AutomationRunDetail},
    ),
    Operation(
        "POST", f"{RUN}/actions", decide_automation_run, "automations",
        "Decide on a run's approval gates",
        body=DecideRun, responses={HTTPStatus.OK: AutomationRunDetail}, errors=(409,),
    ),
    Operation(
        "POST", f"{RUN}/cancel", cancel_automation_run, "automations", "Cancel an automation run",
        responses={HTTPStatus.OK: AutomationRunDetail},
    ),
)  # fmt: skip
