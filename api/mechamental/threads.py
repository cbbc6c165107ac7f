"""Named threads of a namespace: list and create."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.body import read_model
from api.mechamental.access import (
    admit,
    read_path,
    require_organization,
    require_same,
)
from api.mechamental.dialect import MANNER
from api.mechamental.messages import NAMESPACE, NAMESPACE_WITHOUT_APP, NO_NAMES
from api.mechamental.said import iso
from api.mechamental.schemas import (
    CreateNamespaceThread,
    NamespaceThread,
    NamespaceThreadList,
    NamespaceThreadListQuery,
    ThreadPath,
)
from api.openapi import Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import read_query
from api.wire import json_response
from shared.service.named_threads import Scope
from shared.turn.model import Permission

_LISTS: Final = ("source_ids", "memory_ids", "augmentation_ids", "tags")


async def mm_list_threads(request: Request) -> Response:
    """A page of a namespace's threads, newest first."""
    principal = await admit(request, Permission.READ_THREADS)
    path, query = read_path(request), read_query(request, NamespaceThreadListQuery)
    await require_organization(request, principal)
    scope = Scope(path.workspace_id, path.namespace_id, path.app_id)
    rows, cursor, total = await state_of(request).named_threads.list_threads(
        principal, scope, limit=query.limit, cursor=read_cursor(request, query.cursor)
    )
    return json_response(
        {
            "total": total,
            "has_more": cursor is not None,
            "next_cursor": tell_cursor(request, cursor),
            "threads": [_thread_to_dict(row, path, row["title"]) for row in rows],
        }
    )


async def mm_list_threads_without_app(request: Request) -> Response:
    """The same, of all apps."""
    return await mm_list_threads(request)


async def mm_create_thread(request: Request) -> Response:
    """A thread before its first message."""
    principal = await admit(request, Permission.WRITE_THREADS)
    path = read_path(request)
    body = await read_model(request, CreateNamespaceThread, reserved=NO_NAMES)
    require_same(path, body)
    await require_organization(request, principal)
    row = await state_of(request).named_threads.create(
        principal,
        Scope(path.workspace_id, path.namespace_id, path.app_id or body.app_id),
        body.thread_id,
        title=body.name,
        details={name: getattr(body, name) for name in (*_LISTS, "summary")},
    )
    return json_response(_thread_to_dict(row, path, body.name), HTTPStatus.CREATED)


async def mm_create_thread_without_app(request: Request) -> Response:
    """The same; the body may say which app the thread is of."""
    return await mm_create_thread(request)


def _thread_to_dict(row: Any, path: ThreadPath, title: str | None) -> dict[str, Any]:
    details = row["details"]
    return {
        "thread_id": row["name"],
        "workspace_id": path.workspace_id,
        "app_id": row["app"],
        "namespace_id": path.namespace_id,
        "name": title or row["name"],
        **{name: details.get(name) or [] for name in _LISTS},
        "summary": details.get("summary"),
        "status": "active",
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
    }


OPERATIONS: Final = (
    Operation(
        "GET", f"{NAMESPACE}/threads", mm_list_threads, "namespace threads", "List threads",
        query=NamespaceThreadListQuery, responses={HTTPStatus.OK: NamespaceThreadList},
        errors=(403, 422), manner=MANNER,
    ),
    Operation(
        "POST", f"{NAMESPACE}/threads", mm_create_thread, "namespace threads", "Create thread",
        body=CreateNamespaceThread, responses={HTTPStatus.CREATED: NamespaceThread},
        errors=(403, 409), manner=MANNER,
    ),
    Operation(
        "GET", f"{NAMESPACE_WITHOUT_APP}/threads", mm_list_threads_without_app,
        "namespace threads", "List threads without app", query=NamespaceThreadListQuery,
        responses={HTTPStatus.OK: NamespaceThreadList}, errors=(403, 422), manner=MANNER,
    ),
    Operation(
        "POST", f"{NAMESPACE_WITHOUT_APP}/threads", mm_create_thread_without_app,
        "namespace threads", "Create thread without app", body=CreateNamespaceThread,
        responses={HTTPStatus.CREATED: NamespaceThread}, errors=(403, 409), manner=MANNER,
    ),
)  # fmt: skip
