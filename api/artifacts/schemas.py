"""Bodies and queries of artifacts.

Specification: the VirtuousAI API's artifacts; what it leaves open is told where it is decided.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import ConfigDict, Field

from api.validation import QueryInt
from api.wire import Model, Title, id_text, instant
from shared.errors import InvalidRequest
from shared.turn.text import storable_json

ArtifactKind = Literal["json", "text", "file"]
BUCKET: Final = "artifacts"
"""What `bucket` says: where bytes really lie is nobody's business, `/content` serves them."""


class _Content(Model):
    """These members are written so, unlike all others."""

    model_config = ConfigDict(alias_generator=None)

    mime_type: str
    size_bytes: int


class JsonContent(_Content):
    kind: Literal["json"]
    storage: Literal["inline"]
    data: Any = Field(description="Any JSON value; null in a list when it is long")


class TextContent(_Content):
    kind: Literal["text"]
    storage: Literal["inline"]
    text: str | None = Field(description="Null in a list when it is long")


class FileContent(_Content):
    """Where and what a file is; `GET …/content` has its bytes."""

    kind: Literal["file"]
    storage: Literal["s3"]
    bucket: str
    key: str
    etag: str
    original_filename: str | None


class Artifact(Model):
    """Never changes."""

    id: str
    action_run_id: str | None
    kind: ArtifactKind
    title: str | None
    storage_type: Literal["inline", "s3"]
    content: JsonContent | TextContent | FileContent = Field(discriminator="kind")
    created_at: datetime
    updated_at: datetime


class ArtifactList(Model):
    artifacts: list[Artifact]
    has_next: bool
    limit: int
    offset: int
    total: int


class ArtifactListQuery(Model):
    model_config = ConfigDict(alias_generator=None)

    action_run_id: UUID | None = None
    kind: ArtifactKind | None = None
    limit: QueryInt = Field(default=20, ge=1, le=100)
    offset: QueryInt = Field(default=0, ge=0, le=1_000_000_000)


class CreateArtifact(Model):
    """Any JSON value, or a text. Files are uploaded."""

    action_run_id: UUID | None = None
    kind: ArtifactKind
    content: Any = None
    title: Title | None = None

    def inline_text(self) -> str:
        """The content as text; of a value its JSON.

        Raises:
            InvalidRequest: a file, or a text that is none.
        """
        if self.kind == "file":
            msg = "Files are uploaded: POST /api/v1/artifacts/upload"
            raise InvalidRequest(("body", "kind"), msg)
        if self.kind == "json":
            return orjson.dumps(storable_json(self.content)).decode()
        if not isinstance(self.content, str):
            what = "missing" if self.content is None else "string_type"
            msg = "Field required" if self.content is None else "Input should be a valid string"
            raise InvalidRequest(("body", "content"), msg, what)
        return self.content


def artifact_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_artifact` as `Artifact` describes it."""
    storage = "s3" if row["kind"] == "file" else "inline"
    return {
        "id": id_text(row["id"]),
        "actionRunId": id_text(row["action_run_id"]),
        "kind": row["kind"],
        "title": row["title"],
        "storageType": storage,
        "content": {
            "kind": row["kind"],
            "storage": storage,
            "mime_type": row["mime_type"],
            "size_bytes": row["size_bytes"],
            **_content(row),
        },
        "createdAt": instant(row["created_at"]),
        "updatedAt": instant(row["updated_at"]),
    }


def _content(row: Any) -> dict[str, Any]:
    text: str | None = row["inline_text"]
    if row["kind"] == "text":
        return {"text": text}
    if row["kind"] == "json":
        return {"data": None if text is None else orjson.Fragment(text)}
    digest = row["sha256"].hex()
    return {
        "bucket": BUCKET,
        "key": digest,
        "etag": digest,
        "original_filename": row["original_filename"],
    }
