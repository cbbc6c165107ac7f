"""Threads of a project."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

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
from api.zylon.paging import Page, by_time, place_in_time
from api.zylon.projects import PROJECT
from api.zylon.schemas import (
    ZylonCreateThread,
    ZylonThread,
    ZylonThreadPage,
    ZylonThreadPageQuery,
    ZylonThreadQuery,
    ZylonUpdateThread,
    thread_to_dict,
)
from shared.turn.model import Principal

THREADS: Final = f"{PROJECT}/thread"
THREAD: Final = f"{BASE}/thread/{{thread_id}}"


async def zylon_create_thread(request: Request) -> Response:
    """A new thread: Public for all who may see the project, Private for the caller alone."""
    principal = await admit(request)
    body = await read_model(request, ZylonCreateThread, reserved=frozenset())
    project = await state_of(request).projects.get(principal, ids.read_path(request, "proj"))
    row = await state_of(request).project_threads.create(
        principal, project["id"], title=body.name, is_shared=body.visibility == "Public"
    )
    told = thread_to_dict(row, project["id"])
    return json_response(told, HTTPStatus.CREATED, {"location": f"{BASE}/thread/{told['id']}"})


async def zylon_list_threads(request: Request) -> Response:
    """The threads of a project that the caller may use. Those that were deleted are in no list."""
    principal = await admit(request)
    query = read_query(request, ZylonThreadPageQuery)
    project_id = ids.read_path(request, "proj")
    page = Page(request, query, by_time(f"threads:{project_id}"))
    project = await state_of(request).projects.get(principal, project_id)
    rows, total = await state_of(request).project_threads.list_threads(
        principal, project["id"], page.part
    )
    if query.state == "Deleted":
        rows, total = [], 0

    names = await _names(request, principal, rows, query.include)

    def render(row: Any) -> dict[str, Any]:
        return thread_to_dict(row, project["id"], names)

    return json_response(page.tell(rows, total, render, place_in_time))


async def zylon_get_thread(request: Request) -> Response:
    """One thread."""
    principal = await admit(request)
    query = read_query(request, ZylonThreadQuery)
    thread = await state_of(request).project_threads.find(
        principal, ids.read_path(request, "thread")
    )
    names = await _names(request, principal, [thread.row], query.include)
    return json_response(thread_to_dict(thread.row, thread.project_id, names))


async def _names(
    request: Request, principal: Principal, rows: Sequence[Any], include: str | None
) -> dict[UUID, str] | None:
    """The names of the threads' owners, where they are asked for."""
    if include is None:
        return None
    return await state_of(request).project_threads.read_names(principal, rows)


async def zylon_update_thread(request: Request) -> Response:
    """Changes name or visibility; what is absent stays."""
    principal = await admit(request)
    body = await read_model(request, ZylonUpdateThread, reserved=frozenset())
    threads = state_of(request).project_threads
    thread = await threads.find(principal, ids.read_path(request, "thread"))
    is_shared = None if body.visibility is None else body.visibility == "Public"
    await threads.update(thread.owner, thread.id, title=body.name, is_shared=is_shared)
    changed = await threads.find(thread.owner, thread.id)
    return json_response(thread_to_dict(changed.row, changed.project_id))


async def zylon_delete_thread(request: Request) -> Response:
    """Cancels what is active, then makes the thread disappear with all that is in it."""
    principal = await admit(request)
    thread = await state_of(request).project_threads.find(
        principal, ids.read_path(request, "thread")
    )
    await state_of(request).threads.delete(thread.owner, thread.id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


OPERATIONS: Final = (
    Operation(
        "POST", THREADS, zylon_create_thread, "zylon", "Create a thread",
        body=ZylonCreateThread, headers=(ORG,),
        responses={HTTPStatus.CREATED: ZylonThread}, manner=MANNER,
    ),
    Operation(
        "GET", THREADS, zylon_list_threads, "zylon", "List the threads of a project",
        query=ZylonThreadPageQuery, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonThreadPage}, manner=MANNER,
    ),
    Operation(
        "GET", THREAD, zylon_get_thread, "zylon", "Get a thread",
        query=ZylonThreadQuery, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonThread}, manner=MANNER,
    ),
    Operation(
        "PUT", THREAD, zylon_update_thread, "zylon", "Update a thread",
        body=ZylonUpdateThread, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonThread}, manner=MANNER,
    ),
    Operation(
        "DELETE", THREAD, zylon_delete_thread, "zylon", "Delete a thread",
        headers=(ORG,), responses={HTTPStatus.NO_CONTENT: None}, errors=(409,), manner=MANNER,
    ),
)  # fmt: skip
