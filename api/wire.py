"""Values on the primary surface's wire: camelCase, UUIDs as text, times in UTC with `Z`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


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
