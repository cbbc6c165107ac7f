"""JSON on the wire: how every surface sends it, and parts that several build their bodies of.

`Model` is for those whose members are in camelCase; ids are texts, times in UTC with `Z`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from api.limits import MAX_OBJECT_BYTES, MAX_PROMPT_CHARS, MAX_TITLE_CHARS


def _small_object(value: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(value)) > MAX_OBJECT_BYTES:
        raise ValueError(f"Object should have at most {MAX_OBJECT_BYTES} bytes as JSON")
    return value


Title = Annotated[str, Field(max_length=MAX_TITLE_CHARS)]
SystemPrompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
SmallObject = Annotated[dict[str, Any], AfterValidator(_small_object)]


class Model(BaseModel):
    """A body or a query: camelCase outside, unknown members are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


def to_json(value: Any) -> bytes:
    """Compact JSON; times in UTC with `Z`."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def id_text(value: UUID | None) -> str | None:
    """An id as text."""
    return None if value is None else str(value)


def instant(at: datetime | None) -> datetime | str | None:
    """RFC 3339 with microseconds; orjson writes them unless they are 0. Rows come in UTC."""
    if at is None or at.microsecond:
        return at
    return at.strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def json_response(
    value: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """A response whose body is `value` as JSON."""
    return rendered_response(to_json(value), status, headers)


def rendered_response(
    body: bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """A response whose body is JSON already."""
    return Response(body, status, headers, media_type="application/json")
