"""Bodies of requests, as this surface reads them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from api.body import parse_json, read_body
from api.problems import fields_of
from api.state import state_of

M = TypeVar("M", bound=BaseModel)


async def read_value(request: Request) -> Any:
    """The JSON of the body; an empty one counts as `{}`.

    Raises:
        InvalidRequest: not JSON.
        HTTPException: 408, 413 or 415.
    """
    data = await read_body(request, state_of(request).settings.max_body_bytes)
    return parse_json(data) if data.strip(b" \t\r\n") else {}


async def read_model(request: Request, model: type[M]) -> M:
    """The body as `model`; members it does not know are ignored, whatever they are called.

    Raises:
        InvalidFields: JSON, but not what `model` wants; and what `read_value` raises.
    """
    value = await read_value(request)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise fields_of(error, "body") from None
