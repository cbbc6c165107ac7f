"""Artifacts over HTTP. They belong to the tenant: every user of it sees them.

But the files of messages, whose artifacts are seen by who sent them alone.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.artifacts.content import FileResponse, content_headers, entity_tag
from api.artifacts.schemas import (
    Artifact,
    ArtifactList,
    ArtifactListQuery,
    CreateArtifact,
    artifact_to_dict,
)
from api.auth import authenticate
from api.body import read_model
from api.conditional import matches
from api.limits import MAX_TITLE_CHARS
from api.multipart import read_form
from api.openapi import ANY_TYPE, Answer, Operation
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import Model, Title, json_response
from shared.errors import InvalidRequest
from shared.files.spool import Spool

ARTIFACTS: Final = "/api/v1/artifacts"
UPLOAD: Final = f"{ARTIFACTS}/upload"
ARTIFACT: Final = f"{ARTIFACTS}/{{artifact_id}}"
CONTENT: Final = f"{ARTIFACT}/content"


class UploadForm(Model):
    """One file, and what it shall be called."""

    file: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]
    title: Title | None = None


async def list_artifacts(request: Request) -> Response:
    """The tenant's artifacts, newest first, and the files of the caller's own messages.

    A long inline text is left out: read it by its id.
    """
    principal = await authenticate(request)
    query = read_query(request, ArtifactListQuery)
    rows, total = await state_of(request).artifacts.list_artifacts(
        principal,
        action_run_id=query.action_run_id,
        kind=query.kind,
        limit=query.limit,
        offset=query.offset,
    )
    return json_response(
        {
            "artifacts": [artifact_to_dict(row) for row in rows],
            "hasNext": query.offset + len(rows) < total,
            "limit": query.limit,
            "offset": query.offset,
            "total": total,
        }
    )


async def create_artifact(request: Request) -> Response:
    """A JSON value or a text as an artifact."""
    principal = await authenticate(request)
    body = await read_model(request, CreateArtifact)
    row = await state_of(request).artifacts.create_inline(
        principal,
        kind=body.kind,
        text=body.inline_text(),
        title=body.title,
        action_run_id=body.action_run_id,
    )
    return _created(row)


async def upload_artifact(request: Request) -> Response:
    """A file as an artifact. What it is, its bytes tell; the type sent with it does not count."""
    principal = await authenticate(request)
    state = state_of(request)
    max_bytes = state.settings.max_upload_bytes
    with (
        state.admission.transfer(principal.counted_as),
        Spool(max_bytes, await state.objects.spool_folder()) as spool,
    ):
        form = await read_form(request, spool, max_bytes)
        title = form.fields.get("title") or None
        if title is not None and len(title) > MAX_TITLE_CHARS:
            msg = f"String should have at most {MAX_TITLE_CHARS} characters"
            raise InvalidRequest(("body", "title"), msg, "string_too_long")
        form.require_file()
        row = await state_of(request).artifacts.create_file(
            principal, spool, name=form.file_name, title=title
        )
    return _created(row)


async def get_artifact(request: Request) -> Response:
    """One artifact; of a file what it is, of the others all of it."""
    principal = await authenticate(request)
    row = await state_of(request).artifacts.get(principal, path_uuid(request, "artifact_id"))
    return json_response(artifact_to_dict(row))


async def get_artifact_content(request: Request) -> Answer:
    """The bytes, to be saved: nothing is ever served to be shown."""
    principal = await authenticate(request)
    service = state_of(request).artifacts
    row = await service.get(principal, path_uuid(request, "artifact_id"))
    tag = entity_tag(row)
    headers = content_headers(row, tag)
    if matches(request, tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": tag})
    if row["inline_text"] is not None:
        return Response(row["inline_text"].encode(), headers=headers)
    admission = state_of(request).admission
    async with AsyncExitStack() as opened:
        opened.enter_context(admission.transfer(principal.counted_as))
        pieces = await opened.enter_async_context(service.read(row))
        return FileResponse(opened.pop_all(), pieces, size_bytes=row["size_bytes"], headers=headers)


async def delete_artifact(request: Request) -> Response:
    """Hides an artifact of the caller's, also in the threads that it is attached to.

    403: the caller may see it, but somebody else has made it.
    """
    principal = await authenticate(request)
    await state_of(request).artifacts.delete(principal, path_uuid(request, "artifact_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _created(row: Any) -> Response:
    headers = {"location": ARTIFACT.format(artifact_id=row["id"])}
    return json_response(artifact_to_dict(row), HTTPStatus.CREATED, headers)


OPERATIONS: Final = (
    Operation(
        "GET", ARTIFACTS, list_artifacts, "artifacts", "List artifacts",
        query=ArtifactListQuery, responses={HTTPStatus.OK: ArtifactList},
    ),
    Operation(
        "POST", ARTIFACTS, create_artifact, "artifacts", "Create an artifact",
        body=CreateArtifact, responses={HTTPStatus.CREATED: Artifact}, errors=(409,),
    ),
    Operation(
        "POST", UPLOAD, upload_artifact, "artifacts", "Upload a file",
        form=UploadForm, responses={HTTPStatus.CREATED: Artifact}, errors=(409,),
    ),
    Operation(
        "GET", ARTIFACT, get_artifact, "artifacts", "Get an artifact",
        responses={HTTPStatus.OK: Artifact},
    ),
    Operation(
        "DELETE", ARTIFACT, delete_artifact, "artifacts", "Delete an artifact",
        responses={HTTPStatus.NO_CONTENT: None},
    ),
    Operation(
        "GET", CONTENT, get_artifact_content, "artifacts", "Download an artifact",
        responses={HTTPStatus.OK: ANY_TYPE, HTTPStatus.NOT_MODIFIED: None},
    ),
)  # fmt: skip
