"""Artifacts of a project: files, of which interactions show their text to the model."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.body import parse_json
from api.multipart import Form, read_form
from api.openapi import Operation
from api.state import state_of
from api.validation import read_query
from api.wire import json_response
from api.zylon import ids
from api.zylon.access import BASE, ORG, admit
from api.zylon.dialect import MANNER
from api.zylon.paging import Page, ZylonPageQuery, by_time, place_in_time
from api.zylon.projects import PROJECT
from api.zylon.schemas import ZylonArtifact, ZylonArtifactForm, ZylonArtifactPage, artifact_to_dict
from shared.errors import InvalidRequest
from shared.files.spool import Spool
from shared.service.artifacts import ProjectFile

ARTIFACTS: Final = f"{PROJECT}/artifact"
ARTIFACT: Final = f"{BASE}/artifact/{{artifact_id}}"
FILE_FIELD: Final = "fileData"
MAX_NAME_CHARS: Final = 255


async def zylon_create_artifact(request: Request) -> Response:
    """Uploads a document; its text is read from then on, as `ingest_status` tells."""
    principal = await admit(request)
    state = state_of(request)
    project_id = ids.read_path(request, "proj")
    project = await state.projects.get(principal, project_id)
    max_bytes = state.settings.max_upload_bytes
    with (
        state.admission.transfer(principal.counted_as),
        Spool(max_bytes, await state.objects.spool_folder()) as spool,
    ):
        form = await read_form(request, spool, max_bytes, file_field=FILE_FIELD)
        name, props = _read_fields(form)
        file = ProjectFile(project["id"], props, is_private=project["visibility"] == "private")
        row = await state.artifacts.create_file(
            principal, spool, name=form.file_name, title=name, project=file
        )
    await state.project_artifacts.begin_ingestion(principal, row["id"])
    state.attachments.ring()
    made = await state.project_artifacts.get(principal, row["id"])
    told = artifact_to_dict(made)
    return json_response(told, HTTPStatus.CREATED, {"location": f"{BASE}/artifact/{told['id']}"})


def _read_fields(form: Form) -> tuple[str | None, dict[str, Any] | None]:
    """Name and properties of what was uploaded."""
    form.require_file()
    if form.fields.get("type", "Document") != "Document":
        raise InvalidRequest(("body", "type"), "Input should be 'Document'", "literal_error")
    name = form.fields.get("name") or None
    if name is not None and len(name) > MAX_NAME_CHARS:
        msg = f"String should have at most {MAX_NAME_CHARS} characters"
        raise InvalidRequest(("body", "name"), msg, "string_too_long")
    return name, _read_props(form.fields.get("props"))


def _read_props(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    loc = ("body", "props")
    try:
        props = parse_json(text.encode())
    except InvalidRequest as error:  # it names a place in another body
        msg = f"Input should be a JSON object. {error.msg}"
        raise InvalidRequest(loc, msg, error.type) from None
    if not isinstance(props, dict):
        raise InvalidRequest(loc, "Input should be a JSON object", "dict_type")
    return props


async def zylon_list_artifacts(request: Request) -> Response:
    """The artifacts of a project, oldest first."""
    principal = await admit(request)
    query = read_query(request, ZylonPageQuery)
    project_id = ids.read_path(request, "proj")
    page = Page(request, query, by_time(f"artifacts:{project_id}"))
    project = await state_of(request).projects.get(principal, project_id)
    rows, total = await state_of(request).project_artifacts.list_artifacts(
        principal, project["id"], page.part
    )
    return json_response(page.tell(rows, total, artifact_to_dict, place_in_time))


async def zylon_get_artifact(request: Request) -> Response:
    """One artifact of a project, and how far its text was read."""
    principal = await admit(request)
    artifact_id = ids.read_path(request, "artifact")
    row = await state_of(request).project_artifacts.get(principal, artifact_id)
    return json_response(artifact_to_dict(row))


OPERATIONS: Final = (
    Operation(
        "POST", ARTIFACTS, zylon_create_artifact, "zylon", "Upload an artifact",
        form=ZylonArtifactForm, headers=(ORG,),
        responses={HTTPStatus.CREATED: ZylonArtifact}, errors=(409,),
        manner=MANNER,
    ),
    Operation(
        "GET", ARTIFACTS, zylon_list_artifacts, "zylon", "List the artifacts of a project",
        query=ZylonPageQuery, headers=(ORG,),
        responses={HTTPStatus.OK: ZylonArtifactPage}, manner=MANNER,
    ),
    Operation(
        "GET", ARTIFACT, zylon_get_artifact, "zylon", "Get an artifact",
        headers=(ORG,), responses={HTTPStatus.OK: ZylonArtifact}, manner=MANNER,
    ),
)  # fmt: skip
