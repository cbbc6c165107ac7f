"""Agent specs: list, create, read, change, delete. All users of a tenant see and use them.

403 for who changes one that somebody else has made, or the default, and is no administrator.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.agents.schemas import (
    AgentSpec,
    AgentSpecList,
    AgentSpecListQuery,
    CreateAgentSpec,
    UpdateAgentSpec,
    spec_to_dict,
)
from api.auth import authenticate
from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response
from shared.errors import InvalidRequest

SPECS: Final = "/api/v1/agents/specs"
SPEC: Final = f"{SPECS}/{{spec_id}}"


async def list_agent_specs(request: Request) -> Response:
    """The tenant's agent specs by slug. A tenant without any is given the default one first."""
    principal = await authenticate(request)
    query = read_query(request, AgentSpecListQuery)
    rows, total = await state_of(request).agent_specs.list_specs(
        principal, mode=query.mode, limit=query.limit, offset=query.offset
    )
    return json_response({"specs": [spec_to_dict(row) for row in rows], "total": total})


async def create_agent_spec(request: Request) -> Response:
    """A new agent spec. 409: the tenant has a spec with this slug."""
    principal = await authenticate(request)
    body = await read_model(request, CreateAgentSpec)
    row = await state_of(request).agent_specs.create(principal, body.markdown)
    headers = {"location": SPEC.format(spec_id=row["id"])}
    return json_response(spec_to_dict(row), HTTPStatus.CREATED, headers)


async def get_agent_spec(request: Request) -> Response:
    """One agent spec in its newest version."""
    principal = await authenticate(request)
    row = await state_of(request).agent_specs.get(principal, path_uuid(request, "spec_id"))
    return json_response(spec_to_dict(row))


async def update_agent_spec(request: Request) -> Response:
    """Another markdown makes a new version, for turns that are accepted from now on.

    `isDefault: true` makes the spec the tenant's default in place of the present one.
    """
    principal = await authenticate(request)
    spec_id = path_uuid(request, "spec_id")
    body = await read_model(request, UpdateAgentSpec)
    if body.is_default is False:
        msg = "Make another spec the default instead"
        raise InvalidRequest(("body", "isDefault"), msg, "value_error")
    row = await state_of(request).agent_specs.update(
        principal, spec_id, markdown=body.markdown, make_default=bool(body.is_default)
    )
    return json_response(spec_to_dict(row))


async def delete_agent_spec(request: Request) -> Response:
    """Hides an agent spec. Threads that name it go on with the default; 409: it is the default."""
    principal = await authenticate(request)
    await state_of(request).agent_specs.delete(principal, path_uuid(request, "spec_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


OPERATIONS: Final = (
    Operation(
        "GET", SPECS, list_agent_specs, "agents", "List agent specs",
        query=AgentSpecListQuery, responses={HTTPStatus.OK: AgentSpecList},
    ),
    Operation(
        "POST", SPECS, create_agent_spec, "agents", "Create an agent spec",
        body=CreateAgentSpec, responses={HTTPStatus.CREATED: AgentSpec}, errors=(409,),
    ),
    Operation(
        "GET", SPEC, get_agent_spec, "agents", "Get an agent spec",
        responses={HTTPStatus.OK: AgentSpec},
    ),
    Operation(
        "PATCH", SPEC, update_agent_spec, "agents", "Update an agent spec",
        body=UpdateAgentSpec, responses={HTTPStatus.OK: AgentSpec}, errors=(409,),
    ),
    Operation(
        "DELETE", SPEC, delete_agent_spec, "agents", "Delete an agent spec",
        responses={HTTPStatus.NO_CONTENT: None}, errors=(409,),
    ),
)  # fmt: skip
