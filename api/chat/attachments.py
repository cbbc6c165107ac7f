"""Attachments of the primary surface: artifacts that a thread's agents may read."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, RootModel
from starlette.requests import Request
from starlette.responses import Response

from api.auth import authenticate
from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.validation import QueryInt, path_uuid, read_query
from api.wire import Model, id_text, instant, json_response
from shared.turn.ingestion import IngestionStatus

ATTACHMENTS: Final = "/api/v1/chat/threads/{thread_id}/attachments"
ATTACHMENT: Final = "/api/v1/chat/attachments/{attachment_id}"


class Attachment(Model):
    id: str
    thread_id: str
    artifact_id: str
    message_id: str | None
    scope: Literal["thread", "message"] = Field(description="`message` where `messageId` is set")
    ingestion_status: IngestionStatus = Field(
        description="Whether agents can read its text; `none`: it has none that we can read"
    )
    mime_type: str | None
    original_filename: str | None
    size_bytes: int | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime


class AttachmentList(RootModel[list[Attachment]]):
    """A bare array."""


class AttachmentListQuery(Model):
    limit: QueryInt = Field(default=100, ge=1, le=100)
    offset: QueryInt = Field(default=0, ge=0, le=1_000_000_000)


class CreateAttachmentQuery(Model):
    model_config = ConfigDict(alias_generator=None)

    artifact_id: UUID


class CreateAttachment(Model):
    message_id: UUID | None = Field(default=None, description="Only this message's turn reads it")


async def list_attachments(request: Request) -> Response:
    """A thread's attachments, oldest first."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    query = read_query(request, AttachmentListQuery)
    await state_of(request).threads.get(principal, thread_id)
    rows = await state_of(request).attachments.list_attachments(
        principal, thread_id, limit=query.limit, offset=query.offset
    )
    return json_response([attachment_to_dict(row) for row in rows])


async def create_attachment(request: Request) -> Response:
    """Attaches an artifact; one that is attached already comes back as it is, with 200."""
    principal = await authenticate(request)
    thread_id = path_uuid(request, "thread_id")
    query = read_query(request, CreateAttachmentQuery)
    body = await read_model(request, CreateAttachment)
    row, is_new = await state_of(request).attachments.attach(
        principal, thread_id, query.artifact_id, body.message_id
    )
    headers = {"location": ATTACHMENT.format(attachment_id=row["id"])}
    status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return json_response(attachment_to_dict(row), status, headers)


async def get_attachment(request: Request) -> Response:
    """One attachment, and how far its text has been read."""
    principal = await authenticate(request)
    row = await state_of(request).attachments.get(principal, path_uuid(request, "attachment_id"))
    return json_response(attachment_to_dict(row))


async def delete_attachment(request: Request) -> Response:
    """Detaches: later turns do not see it. The artifact stays."""
    principal = await authenticate(request)
    await state_of(request).attachments.delete(principal, path_uuid(request, "attachment_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def attachment_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_attachment` as `Attachment` describes it."""
    return {
        "id": id_text(row["id"]),
        "threadId": id_text(row["thread_id"]),
        "artifactId": id_text(row["artifact_id"]),
        "messageId": id_text(row["message_id"]),
        "scope": "thread" if row["message_id"] is None else "message",
        "ingestionStatus": row["ingestion_status"],
        "mimeType": row["mime_type"],
        "originalFilename": row["file_name"],
        "sizeBytes": row["size_bytes"],
        "createdBy": id_text(row["created_by"]),
        "createdAt": instant(row["created_at"]),
        "updatedAt": instant(row["updated_at"]),
    }


OPERATIONS: Final = (
    Operation(
        "GET", ATTACHMENTS, list_attachments, "attachments", "List attachments",
        query=AttachmentListQuery, responses={HTTPStatus.OK: AttachmentList},
    ),
    Operation(
        "POST", ATTACHMENTS, create_attachment, "attachments", "Create an attachment",
        query=CreateAttachmentQuery, body=CreateAttachment,
        responses={HTTPStatus.CREATED: Attachment, HTTPStatus.OK: Attachment}, errors=(409,),
    ),
    Operation(
        "GET", ATTACHMENT, get_attachment, "attachments", "Get an attachment",
        responses={HTTPStatus.OK: Attachment},
    ),
    Operation(
        "DELETE", ATTACHMENT, delete_attachment, "attachments", "Delete an attachment",
        responses={HTTPStatus.NO_CONTENT: None},
    ),
)  # fmt: skip
