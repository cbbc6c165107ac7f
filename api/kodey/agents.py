"""Agents: agent specs whose markdown is made of single fields. For secret keys alone.

What the fields do not name (permissions, sub-agents, other sampling settings) stays as it is when
an agent is changed; comments in its YAML do not.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.kodey.access import admit_secret
from api.kodey.dialect import MANNER
from api.kodey.headers import answer
from api.kodey.schemas import (
    KodeyAgent,
    KodeyAgentList,
    KodeyCreateAgent,
    KodeyRolledBackAgent,
    KodeyUpdateAgent,
    second,
)
from api.openapi import Operation
from api.state import state_of
from shared.agents.spec import instructions_of, write_agent_spec
from shared.errors import InvalidRequest, SlugTaken
from shared.ids import new_id
from shared.service.accounts import short_name
from shared.turn.model import Principal

AGENTS: Final = "/agent"
AGENT: Final = f"{AGENTS}/{{agent_id}}"
MAX_AGENTS: Final = 1000
_HEAD: Final = ("description", "model", "type")
"""Fields that are keys of the head as they are."""


async def kodey_create_agent(request: Request) -> Response:
    """A new agent. Its slug is made of its name, and ends otherwise where that one is taken."""
    principal = await admit_secret(request)
    body = await read_model(request, KodeyCreateAgent, reserved=frozenset())
    specs = state_of(request).agent_specs
    base = short_name(body.name) or "agent"
    head = {"name": body.name, "slug": base, "mode": "primary", "tools": []}
    instructions = _change(head, "", body)
    try:
        row = await specs.create(principal, write_agent_spec(head, instructions))
    except SlugTaken:
        head["slug"] = f"{base}-{new_id().hex[-8:]}"
        row = await specs.create(principal, write_agent_spec(head, instructions))
    return answer(request, _to_dict(principal, row))


async def kodey_list_agents(request: Request) -> Response:
    """The team's agents by slug, at most 1000."""
    principal = await admit_secret(request)
    rows, _ = await state_of(request).agent_specs.list_specs(
        principal, mode=None, limit=MAX_AGENTS, offset=0
    )
    return answer(request, {"agents": [_listed(row) for row in rows]})


async def kodey_get_agent(request: Request) -> Response:
    """One agent by its id or slug, in its newest version."""
    principal = await admit_secret(request)
    return answer(request, _to_dict(principal, await _find(request, principal)))


async def kodey_update_agent(request: Request) -> Response:
    """Changes what the body names, for messages that are accepted from now on."""
    principal = await admit_secret(request)
    body = await read_model(request, KodeyUpdateAgent, reserved=frozenset())
    if body.name is None and "name" in body.model_fields_set:
        raise InvalidRequest(("body", "name"), "Input should be a valid string", "string_type")
    row = await _find(request, principal)
    head = dict(row["frontmatter"])
    instructions = _change(head, instructions_of(row["markdown"]), body)
    markdown = write_agent_spec(head, instructions)
    if (head, instructions) == (row["frontmatter"], instructions_of(row["markdown"])):
        markdown = row["markdown"]  # the same as before is no new version
    row = await state_of(request).agent_specs.update(
        principal, row["id"], markdown=markdown, make_default=False
    )
    return answer(request, _to_dict(principal, row))


async def kodey_delete_agent(request: Request) -> Response:
    """Hides an agent. Its chats go on with the team's default; 409: it is the default."""
    principal = await admit_secret(request)
    row = await _find(request, principal)
    await state_of(request).agent_specs.delete(principal, row["id"])
    return answer(request, None, 204)


async def kodey_roll_back_agent(request: Request) -> Response:
    """Makes an agent what it was before its last change; 400: it has not been changed."""
    principal = await admit_secret(request)
    specs = state_of(request).agent_specs
    row = await specs.roll_back(principal, (await _find(request, principal))["id"])
    return answer(
        request,
        {
            "id": str(row["id"]),
            "name": row["frontmatter"]["name"],
            "version": row["version"],
            "rolledBackAt": second(row["updated_at"]),
        },
    )


async def _find(request: Request, principal: Principal) -> Any:
    specs = state_of(request).agent_specs
    spec_id, _ = await specs.find(principal, request.path_params["agent_id"])
    return await specs.get(principal, spec_id)


def _change(
    head: dict[str, Any], instructions: str, body: KodeyCreateAgent | KodeyUpdateAgent
) -> str:
    """Writes what the body names into the head; the instructions that are left."""
    named = body.model_fields_set
    if body.name is not None:
        head["name"] = body.name
    for name in named.intersection(_HEAD):
        _put(head, name, getattr(body, name) or None)
    if "tools" in named:
        head["tools"] = body.tools or []
    if "temperature" in named:
        sampling = dict(head.get("model_settings") or {})
        _put(sampling, "temperature", body.temperature)
        _put(head, "model_settings", sampling or None)
    return (body.system_prompt or "").strip() if "system_prompt" in named else instructions


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value


def _listed(row: Any) -> dict[str, Any]:
    head = row["frontmatter"]
    return {
        "id": str(row["id"]),
        "name": head["name"],
        "slug": head["slug"],
        "description": head.get("description"),
        "createdAt": second(row["created_at"]),
    }


def _to_dict(principal: Principal, row: Any) -> dict[str, Any]:
    head = row["frontmatter"]
    return _listed(row) | {
        "teamId": str(principal.tenant_id),
        "type": head.get("type"),
        "systemPrompt": instructions_of(row["markdown"]),
        "model": head.get("model"),
        "temperature": (head.get("model_settings") or {}).get("temperature"),
        "tools": head["tools"],
        "version": row["version"],
        "updatedAt": second(row["updated_at"]),
    }


OPERATIONS: Final = (
    Operation(
        "POST", AGENTS, kodey_create_agent, "kodey", "Create an agent",
        body=KodeyCreateAgent, responses={200: KodeyAgent}, errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "GET", AGENTS, kodey_list_agents, "kodey", "List agents",
        responses={200: KodeyAgentList}, errors=(403,), manner=MANNER,
    ),
    Operation(
        "GET", AGENT, kodey_get_agent, "kodey", "Get an agent",
        responses={200: KodeyAgent}, errors=(403,), manner=MANNER,
    ),
    Operation(
        "PUT", AGENT, kodey_update_agent, "kodey", "Update an agent",
        body=KodeyUpdateAgent, responses={200: KodeyAgent}, errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "DELETE", AGENT, kodey_delete_agent, "kodey", "Delete an agent",
        responses={204: None}, errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "PUT", f"{AGENT}/rollback", kodey_roll_back_agent, "kodey", "Roll an agent back",
        responses={200: KodeyRolledBackAgent}, errors=(400, 403, 409), manner=MANNER,
    ),
)  # fmt: skip
