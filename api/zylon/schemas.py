"""Bodies and answers of this surface, beside chats: snake_case, times to the second in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from api.zylon.chat_request import ZylonChatRequest, ZylonContentBlock
from api.zylon.ids import show
from api.zylon.paging import ZylonPageQuery

Visibility = Literal["Private", "Public"]
Name = Annotated[str, Field(min_length=1, max_length=255)]
IngestStatus = Literal[
    "NotApplicable", "NotStarted", "Processing", "Parsing", "Storing", "Done", "Error"
]
"""As documented; reading a file is one step here, so nothing is ever Parsing or Storing."""
_VISIBILITY: Final[dict[str, Visibility]] = {
    "private": "Private",
    "shared": "Public",
    "project": "Public",
}
_INGESTION: Final[dict[str, IngestStatus]] = {
    "pending": "NotStarted",
    "processing": "Processing",
    "completed": "Done",
    "failed": "Error",
}


_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
"""How a time begins; numbers are times to pydantic."""


def _absent() -> Any:
    """What a member is that is left out."""


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Answer(BaseModel):
    """Members with an empty default are left out where there is nothing to say; none is null."""


def _near(at: datetime) -> datetime:
    if at.year in (MINYEAR, MAXYEAR):  # it may be in no year of UTC's
        raise ValueError("Input should be within the years 2 to 9998")
    return at


def _as_written(value: Any) -> Any:
    if isinstance(value, str) and _RFC_3339.match(value):
        return value
    raise ValueError("Input should be a time of RFC 3339")


class ZylonCreateProject(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(strict=True, min_length=1, max_length=255)]
    goal: Annotated[str, Field(strict=True, max_length=10_000)] | None = None
    deadline: (
        Annotated[AwareDatetime, BeforeValidator(_as_written), AfterValidator(_near)] | None
    ) = None
    visibility: Visibility


class ZylonProject(_Answer):
    id: str
    name: str
    goal: str | None
    deadline: str | None
    visibility: Visibility
    state: Literal["Active"]
    is_default: bool
    created_at: str
    updated_at: str


class ZylonCreateThread(_Body):
    name: Name
    visibility: Visibility


class ZylonUpdateThread(_Body):
    """What is absent, or null, stays."""

    name: Name | None = None
    visibility: Visibility | None = None


class ZylonUser(_Answer):
    id: str
    name: str


class ZylonThread(_Answer):
    id: str
    project_id: str
    name: str
    visibility: Visibility
    state: Literal["Active"]
    created_at: str
    updated_at: str
    created_by: ZylonUser = Field(default_factory=_absent, description="With include=User")


class ZylonMessage(_Answer):
    role: str
    content: list[dict[str, Any]]


class ZylonTokenUsage(_Answer):
    input_tokens: int
    output_tokens: int


class ZylonTurnErrorDetail(_Answer):
    type: str
    message: str


class ZylonMessageOutput(_Answer):
    id: str
    created: int
    model: str
    stop_reason: Literal["end_turn", "max_tokens", "cancelled", "error"]
    content: list[dict[str, Any]]
    usage: ZylonTokenUsage
    errors: list[ZylonTurnErrorDetail] = Field(
        default_factory=_absent, description="Of one that failed"
    )


class ZylonInteractionAnswer(_Answer):
    id: str
    project_id: str
    thread_id: str
    state: Literal["Processing", "Completed", "Error"]
    artifact_ids: list[str]
    all_artifacts: bool
    agent: str
    user_input: ZylonMessage
    assistant_output: ZylonMessageOutput = Field(
        default_factory=_absent, description="Absent while it is being made"
    )
    created_at: str


class ZylonCreateInteraction(_Body):
    """`pgpt` is the new exchange; what the thread has said before goes before it."""

    pgpt: ZylonChatRequest
    thread_id: str | None = None
    artifact_ids: list[str] = Field(default=[], max_length=50)
    all_artifacts: bool = False
    agent: Literal["Default", "ProjectDeepResearch"] = "Default"


class ZylonChatAnswer(_Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    model: str
    stop_reason: Literal["end_turn", "max_tokens", "cancelled"]
    usage: ZylonTokenUsage


class ZylonValidation(_Answer):
    valid: bool
    errors: list[str] | None
    warnings: list[str]


class ZylonOrganization(_Answer):
    id: str
    name: str
    slug: str | None


class ZylonMe(ZylonUser):
    email: str
    organization: ZylonOrganization
    default_project_id: str
    created_at: str


class ZylonArtifact(_Answer):
    id: str
    project_id: str
    type: Literal["Document"]
    name: str
    mime_type: str
    size_bytes: int
    props: dict[str, Any]
    state: Literal["Published"]
    ingest_status: IngestStatus
    created_at: str
    updated_at: str


class ZylonArtifactForm(BaseModel):
    type: Literal["Document"]
    name: str | None = None
    props: str | None = Field(default=None, description="A JSON object")
    fileData: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]  # noqa: N815


class _PageOf(_Answer):
    has_next_page: bool
    has_previous_page: bool
    next_cursor: str = Field(default_factory=_absent, description="Where there is a next page")
    previous_cursor: str = Field(default_factory=_absent, description="Where there is one before")
    total_count: int = Field(default_factory=_absent, description="Unless total_count=false")


class ZylonProjectPage(_PageOf):
    data: list[ZylonProject]


class ZylonThreadPage(_PageOf):
    data: list[ZylonThread]


class ZylonInteractionPage(_PageOf):
    data: list[ZylonInteractionAnswer]


class ZylonArtifactPage(_PageOf):
    data: list[ZylonArtifact]


class ZylonThreadPageQuery(ZylonPageQuery):
    state: Literal["Active", "Deleted"] = "Active"
    include: Literal["User"] | None = None


class ZylonThreadQuery(BaseModel):
    include: Literal["User"] | None = None


DOCUMENTED: Final = (ZylonChatRequest, ZylonContentBlock)


def instant(at: datetime | None) -> str | None:
    """RFC 3339 to the second, in UTC with `Z`."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def project_to_dict(row: Any) -> dict[str, Any]:
    """A row of `projects` as `ZylonProject` describes it."""
    return {
        "id": show("proj", row["id"]),
        "name": row["name"],
        "goal": row["goal"],
        "deadline": instant(row["deadline"]),
        "visibility": _VISIBILITY[row["visibility"]],
        "state": "Active",
        "is_default": row["is_default"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def thread_to_dict(
    row: Any, project_id: UUID, names: Mapping[UUID, str] | None = None
) -> dict[str, Any]:
    """A row of `threads` as `ZylonThread` describes it; with its owner where names are given."""
    told = {
        "id": show("thread", row["id"]),
        "project_id": show("proj", project_id),
        "name": row["title"] or "",
        "visibility": _VISIBILITY[row["visibility"]],
        "state": "Active",
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }
    if names is not None:
        owner: UUID = row["user_id"]
        told["created_by"] = {"id": show("user", owner), "name": names.get(owner, "")}
    return told


def artifact_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_project_artifact` as `ZylonArtifact` describes it."""
    return {
        "id": show("artifact", row["id"]),
        "project_id": show("proj", row["project_id"]),
        "type": "Document",
        "name": row["title"] or row["original_filename"] or "",
        "mime_type": row["mime_type"],
        "size_bytes": row["size_bytes"],
        "props": row["props"] or {},
        "state": "Published",
        "ingest_status": ingest_status(row),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def ingest_status(row: Any) -> IngestStatus:
    """How far a model could read an artifact: what is no file can be read as it is."""
    if row["kind"] != "file":
        return "Done"
    unasked: IngestStatus = "NotApplicable" if row["reader"] is None else "NotStarted"
    return _INGESTION.get(row["ingestion_status"], unasked)
