"""Projects, and who asks."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.validation import read_query
from api.wire import json_response
from api.zylon import ids
from api.zylon.access import BASE, ORG, admit
from api.zylon.dialect import MANNER
from api.zylon.paging import Page, ZylonPageQuery, by_time, place_in_time
from api.zylon.schemas import (
    ZylonCreateProject,
    ZylonMe,
    ZylonProject,
    ZylonProjectPage,
    instant,
    project_to_dict,
)

PROJECTS: Final = f"{BASE}/project"
PROJECT: Final = f"{PROJECTS}/{{project_id}}"


async def zylon_create_project(request: Request) -> Response:
    """A new project: Public for all of the organization, Private for the caller alone."""
    principal = await admit(request)
    body = await read_model(request, ZylonCreateProject, reserved=frozenset())
    row = await state_of(request).projects.create(
        principal,
        name=body.name,
        goal=body.goal,
        deadline=body.deadline,
        is_shared=body.visibility == "Public",
    )
    told = project_to_dict(row)
    return json_response(told, HTTPStatus.CREATED, {"location": f"{PROJECTS}/{told['id']}"})


async def zylon_list_projects(request: Request) -> Response:
    """The projects that the caller may see, oldest first unless asked otherwise."""
    principal = await admit(request)
    page = Page(request, read_query(request, ZylonPageQuery), by_time("projects"))
    rows, total = await state_of(request).projects.list_projects(principal, page.part)
    return json_response(page.tell(rows, total, project_to_dict, place_in_time))


async def zylon_get_project(request: Request) -> Response:
    """One project."""
    principal = await admit(request)
    project_id = ids.read_path(request, "proj")
    return json_response(
        project_to_dict(await state_of(request).projects.get(principal, project_id))
    )


async def zylon_get_me(request: Request) -> Response:
    """Who asks, of which organization, and its default project."""
    principal = await admit(request)
    row = await state_of(request).users.get(principal)
    default = await state_of(request).projects.get_default(principal)
    return json_response(
        {
            "id": ids.show("user", row["id"]),
            "name": row["name"],
            "email": row["email"],
            "organization": {
                "id": ids.show("org", row["organization_id"]),
                "name": row["organization_name"],
                "slug": row["organization_slug"],
            },
            "default_project_id": ids.show("proj", default),
            "created_at": instant(row["created_at"]),
        }
    )


OPERATIONS: Final = (
    Operation(
        "POST", PROJECTS, zylon_create_project, "zylon", "Create a project",
        body=ZylonCreateProject, headers=(ORG,),
        responses={HTTPStatus.CREATED: ZylonProject}, errors=(404,),
        manner=MANNER,
    ),
    Operation(
        "GET", PROJECTS, zylon_list_projects, "zylon", "List projects",
        query=ZylonPageQuery, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonProjectPage}, errors=(404,),
        manner=MANNER,
    ),
    Operation(
        "GET", PROJECT, zylon_get_project, "zylon", "Get a project",
        headers=(ORG,), responses={HTTPStatus.OK: ZylonProject}, manner=MANNER,
    ),
    Operation(
        "GET", f"{BASE}/me", zylon_get_me, "zylon", "Who asks",
        headers=(ORG,), responses={HTTPStatus.OK: ZylonMe}, errors=(404,), manner=MANNER,
    ),
)  # fmt: skip
