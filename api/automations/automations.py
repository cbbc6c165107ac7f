"""Automations: list, create, read, change, delete; and a thread made into one."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.automations.schemas import (
    Automation,
    AutomationList,
    AutomationListQuery,
    CreateAutomation,
    Crystallized,
    CrystallizeThread,
    UpdateAutomation,
    automation_to_dict,
)
from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response

AUTOMATIONS: Final = "/api/v1/automations"
AUTOMATION: Final = f"{AUTOMATIONS}/{{automation_id}}"
CRYSTALLIZE: Final = "/api/v1/chat/threads/{thread_id}/crystallize"


async def crystallize_thread(request: Request) -> Response:
    """Makes a draft automation of what the thread's agent did: each tool call that succeeded.

    The inputs are frozen, the order is kept, calls that were approved stand behind a gate. 409: the
    thread has an active turn, or has done nothing that could be done again.
    """
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    body = await read_model(request, CrystallizeThread)
    service = state_of(request).automations
    automation_id = await service.crystallize(principal, thread_id, body.name)
    headers = {"location": AUTOMATION.format(automation_id=automation_id)}
    return json_response({"automationId": str(automation_id)}, HTTPStatus.CREATED, headers)


async def list_automations(request: Request) -> Response:
    """The tenant's automations, newest first. A long config is left out: read it by its id."""
    principal = await authenticate(request)
    query = read_query(request, AutomationListQuery)
    rows, total = await state_of(request).automations.list_automations(
        principal, status=query.status, limit=query.limit, offset=query.offset
    )
    return json_response({"items": [automation_to_dict(row) for row in rows], "total": total})


async def create_automation(request: Request) -> Response:
    """A new draft."""
    principal = await authenticate(request)
    body = await read_model(request, CreateAutomation)
    body.check()
    row = await state_of(request).automations.create(
        principal, name=body.name, description=body.description, config=body.config
    )
    headers = {"location": AUTOMATION.format(automation_id=row["id"])}
    return json_response(automation_to_dict(row), HTTPStatus.CREATED, headers)


async def get_automation(request: Request) -> Response:
    """One automation with its newest version."""
    principal = await authenticate(request)
    service = state_of(request).automations
    row = await service.get(principal, path_uuid(request, "automation_id"))
    return json_response(automation_to_dict(row))


async def update_automation(request: Request) -> Response:
    """Another config is a new version; runs have the active one until the new one is activated.

    409: what was never active cannot be paused.
    """
    principal = await authenticate(request)
    automation_id = path_uuid(request, "automation_id")
    body = await read_model(request, UpdateAutomation)
    row = await state_of(request).automations.update(principal, automation_id, body.as_change())
    return json_response(automation_to_dict(row))


async def delete_automation(request: Request) -> Response:
    """Hides an automation and its runs; those that are not over are cancelled."""
    principal = await authenticate(request)
    await state_of(request).automations.delete(principal, path_uuid(request, "automation_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


OPERATIONS: Final = (
    Operation(
        "POST", CRYSTALLIZE, crystallize_thread, "automations", "Crystallize a thread",
        body=CrystallizeThread, responses={HTTPStatus.CREATED: Crystallized}, errors=(409,),
    ),
    Operation(
        "GET", AUTOMATIONS, list_automations, "automations", "List automations",
        query=AutomationListQuery, responses={HTTPStatus.OK: AutomationList},
    ),
    Operation(
        "POST", AUTOMATIONS, create_automation, "automations", "Create an automation",
        body=CreateAutomation, responses={HTTPStatus.CREATED: Automation},
    ),
    Operation(
        "GET", AUTOMATION, get_automation, "automations", "Get an automation",
        responses={HTTPStatus.OK: Automation},
    ),
    Operation(
        "PATCH", AUTOMATION, update_automation, "automations", "Update an automation",
        body=UpdateAutomation, responses={HTTPStatus.OK: Automation}, errors=(409,),
    ),
    Operation(
        "DELETE", AUTOMATION, delete_automation, "automations", "Delete an automation",
        responses={HTTPStatus.NO_CONTENT: None},
    ),
)  # fmt: skip
