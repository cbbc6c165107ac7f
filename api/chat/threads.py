"""Threads of the primary surface: create, read, change, list, delete."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.body import read_model
from api.chat.thread_schemas import (
    BulkDelete,
    CreateThread,
    DeletedThreads,
    Thread,
    ThreadList,
    ThreadListQuery,
    UpdateThread,
    thread_to_dict,
)
from api.openapi import Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response
from shared.turn.model import Principal

THREADS: Final = "/api/v1/chat/threads"
THREAD: Final = f"{THREADS}/{{thread_id}}"


async def list_threads(request: Request) -> Response:
    """The caller's threads, newest activity first."""
    principal = await authenticate(request)
    query = read_query(request, ThreadListQuery)
    rows, cursor = await state_of(request).threads.list_threads(
        principal, limit=query.limit, cursor=read_cursor(request, query.cursor)
    )
    return json_response(
        {"items": [thread_to_dict(row) for row in rows], "nextCursor": tell_cursor(request, cursor)}
    )


async def create_thread(request: Request) -> Response:
    """A new thread; every field of the body is optional."""
    principal = await authenticate(request)
    body = await read_model(request, CreateThread)
    row = await state_of(request).threads.create(
        principal,
        title=body.title,
        system_prompt=body.system_prompt,
        metadata=body.metadata,
        agent_spec_id=await _agent_spec_id(request, principal, body.agent_spec_id),
    )
    headers = {"location": THREAD.format(thread_id=row["id"])}
    return json_response(thread_to_dict(row), HTTPStatus.CREATED, headers)


async def get_thread(request: Request) -> Response:
    """One thread with the status of its newest turn."""
    principal = await authenticate(request)
    row = await state_of(request).threads.get(principal, path_uuid(request, "thread_id"))
    return json_response(thread_to_dict(row))


async def update_thread(request: Request) -> Response:
    """Changes what the body names: null clears, metadata is replaced as a whole."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    body = await read_model(request, UpdateThread)
    threads = state_of(request).threads
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    if body.agent_spec_id is not None:
        await threads.get(principal, thread_id)  # a foreign thread is told of first
        changes["agent_spec_id"] = await _agent_spec_id(request, principal, body.agent_spec_id)
    row = await threads.update(principal, thread_id, **changes)
    return json_response(thread_to_dict(row))


async def delete_thread(request: Request) -> Response:
    """Cancels what is active, then makes the thread, its turns and messages disappear."""
    principal = await authenticate(request)
    await state_of(request).threads.delete(principal, path_uuid(request, "thread_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def bulk_delete_threads(request: Request) -> Response:
    """Deletes many of the caller's threads, or all; unknown ids do not count."""
    principal = await authenticate(request)
    wanted = (await read_model(request, BulkDelete)).wanted()
    is_nothing = wanted is not None and not wanted
    threads = state_of(request).threads
    deleted = 0 if is_nothing else await threads.delete_many(principal, wanted)
    return json_response({"deletedCount": deleted})


async def _agent_spec_id(request: Request, principal: Principal, wanted: str | None) -> UUID | None:
    specs = state_of(request).agent_specs
    return None if wanted is None else await specs.require_entry_point(principal, wanted)


OPERATIONS: Final = (
    Operation(
        "GET", THREADS, list_threads, "threads", "List threads",
        query=ThreadListQuery, responses={HTTPStatus.OK: ThreadList},
    ),
    Operation(
        "POST", THREADS, create_thread, "threads", "Create a thread",
        body=CreateThread, responses={HTTPStatus.CREATED: Thread}, errors=(404,),
    ),
    Operation(
        "POST", f"{THREADS}/bulk-delete", bulk_delete_threads, "threads", "Delete many threads",
        body=BulkDelete, responses={HTTPStatus.OK: DeletedThreads}, errors=(409,),
    ),
    Operation(
        "GET", THREAD, get_thread, "threads", "Get a thread", responses={HTTPStatus.OK: Thread}
    ),
    Operation(
        "PATCH", THREAD, update_thread, "threads", "Update a thread",
        body=UpdateThread, responses={HTTPStatus.OK: Thread},
    ),
    Operation(
        "DELETE", THREAD, delete_thread, "threads", "Delete a thread",
        responses={HTTPStatus.NO_CONTENT: None}, errors=(409,),
    ),
)  # fmt: skip
