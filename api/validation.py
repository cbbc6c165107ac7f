"""Path and query parameters, checked strictly: what is wrong is refused, never guessed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError
from starlette.requests import Request

from api.problems import InvalidFields, fields_of
from shared.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

_PLAIN_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PLAIN_INT: Final = re.compile(r"-?[0-9]{1,18}")
_ANY_UUID: Final = TypeAdapter(UUID)


def path_uuid(request: Request, name: str) -> UUID:
    """The path parameter `name`.

    Raises:
        InvalidFields: `uuid_parsing`.
    """
    text = request.path_params[name]
    if _PLAIN_UUID.fullmatch(text):
        return UUID(text)
    try:
        return _ANY_UUID.validate_python(text)
    except ValidationError as error:
        found = fields_of(error, "path")
        items = [{**item, "loc": ["path", name]} for item in found.items]
        raise InvalidFields(items, found.inputs) from None


def read_query(request: Request, model: type[M]) -> M:
    """The query string as `model`. Unknown parameters are ignored.

    Raises:
        InvalidRequest: a parameter is repeated or holds a NUL.
        InvalidFields: a parameter is not what `model` wants.
    """
    wanted = {field.alias or name for name, field in model.model_fields.items()}
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in wanted:
            continue
        if name in values:
            raise InvalidRequest(("query", name), "The parameter may be given only once")
        if "\0" in value:
            raise InvalidRequest(("query", name), "The value holds a NUL character")
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise fields_of(error, "query") from None


def _plain_int(value: Any) -> Any:
    if isinstance(value, str) and not _PLAIN_INT.fullmatch(value):
        raise PydanticKnownError("int_parsing")
    return value


QueryInt = Annotated[int, BeforeValidator(_plain_int)]
"""A whole number in decimal digits: not `1.0`, `1_000`, ` 1` or `true`."""
