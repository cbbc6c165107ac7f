"""Request bodies: read within bounds, parsed strictly, validated. What passes is safe to store.

JSON is stricter than RFC 8259 allows us to be: no duplicate keys, no NUL, no number that would lose
digits, at most `MAX_DEPTH` levels. Postgres takes none of the first two, and readers disagree on
the rest.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from api.problems import InvalidFields, fields_of
from api.state import state_of
from shared.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH: Final = 32
RECEIVE_TIMEOUT_S: Final = 10.0
RESERVED: Final = frozenset(
    {
        "attempt", "completedAt", "completed_at", "createdAt", "createdBy", "created_at",
        "created_by", "deletedAt", "deleted_at", "durationSeconds", "endedAt", "ended_at", "epoch",
        "isAdmin", "is_admin", "organizationId", "organization_id", "startedAt", "started_at",
        "status", "tenantId", "tenant_id", "updatedAt", "updated_at", "usage", "userId", "user_id",
    }
)  # fmt: skip
"""Fields only the server sets: sending one is an error, other unknown fields are ignored."""

# The response ends the connection, so that nobody has to swallow the rest of the body.
_CLOSE: Final = {"connection": "close"}
_JSON_TYPE: Final = re.compile(
    r'application/(?:[\w.+-]+\+)?json\s*(?:;\s*(?:[\w.-]+\s*=\s*(?:"[^"]*"|[\w./+-]+)\s*)?)*',
    re.IGNORECASE,
)
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
"""In which the bytes of JSON are UTF-8."""
_COLON_AFTER_QUOTE: Final = re.compile(rb'"[ \t\r\n]*:')
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
_INT_RANGE: Final = range(-(2**63), 2**64)


async def read_model(request: Request, model: type[M], *, reserved: frozenset[str] = RESERVED) -> M:
    """The body as `model`.

    `reserved` are fields that it may not bring unless the model has them.

    Raises:
        InvalidFields: JSON, but not what `model` wants, or with a reserved field; and what
            `read_value` raises.
    """
    value = await read_value(request)
    refused = _find_reserved(value, model, reserved)
    try:
        parsed = model.model_validate(value)
    except ValidationError as error:
        found = fields_of(error, "body")
        inputs = [{"input": None, "ctx": {}}] * len(refused) + [*found.inputs]
        raise InvalidFields([*refused, *found.items], inputs) from None
    if refused:
        raise InvalidFields(refused)
    return parsed


async def read_value(request: Request) -> Any:
    """The JSON of the body; an empty one counts as `{}`.

    Raises:
        InvalidRequest: not JSON of the kind described above.
        HTTPException: 408, 413 or 415.
    """
    data = await read_body(request, state_of(request).settings.max_body_bytes)
    return parse_json(data) if data.strip(b" \t\r\n") else {}


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, within `RECEIVE_TIMEOUT_S`.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 not plain JSON (an empty body is any type).
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "Compressed bodies are not accepted", _CLOSE)
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large()
    try:
        async with asyncio.timeout(RECEIVE_TIMEOUT_S):
            data = await _receive(request, limit)
    except TimeoutError:
        raise HTTPException(408, "The body did not arrive in time", _CLOSE) from None
    if data and not _is_json(request):
        raise HTTPException(415, "Content-Type must be application/json")
    return data


async def _receive(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _is_json(request: Request) -> bool:
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or _JSON_TYPE.fullmatch(kinds[0].strip()) is None:
        return False
    return {name.lower() for name in _CHARSET.findall(kinds[0])} <= _CHARSETS


def _too_large() -> HTTPException:
    return HTTPException(413, "Request too large", _CLOSE)


def parse_json(data: bytes) -> Any:
    """Strict JSON.

    The usual body costs one pass of orjson and a walk over its containers; only what looks
    suspicious (a NUL, a long number, more colons than keys) is read again, exactly.

    Raises:
        InvalidRequest: `json_invalid` at `["body", position]`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        _refuse(error.msg, error.pos)
    keys = _count_keys(value)
    if (
        keys != len(_COLON_AFTER_QUOTE.findall(data))
        or b"\\u0000" in data
        or _LONG_NUMBER.search(data) is not None
    ):
        _check_exactly(data)
    return value


def _count_keys(value: Any) -> int:
    """Number of keys of all objects; refuses deep nesting without recursing into it."""
    level = [value] if type(value) in (dict, list) else []
    keys = depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            _refuse(f"nested deeper than {MAX_DEPTH} levels")
        inner: list[Any] = []
        for node in level:
            members: Iterable[Any] = node
            if type(node) is dict:
                keys += len(node)
                members = node.values()
            inner += [member for member in members if type(member) in (dict, list)]
        level = inner
    return keys


def _check_exactly(data: bytes) -> None:
    # The depth is known to be small and the syntax to be right.
    value = json.loads(data, object_pairs_hook=_unique, parse_int=_whole_number)
    _refuse_nul([value])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse("duplicate key")
    _refuse_nul([*found, *found.values()])
    return found


def _refuse_nul(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str) and "\0" in value:
            _refuse("NUL character in a string")
        if isinstance(value, list):
            _refuse_nul(value)


def _whole_number(text: str) -> int:
    if len(text) > 20 or int(text) not in _INT_RANGE:
        _refuse("number beyond 64 bits")
    return int(text)


def _refuse(reason: str, position: int = 0) -> NoReturn:
    raise InvalidRequest(("body", position), f"Invalid JSON: {reason}", "json_invalid")


def _find_reserved(
    value: Any, model: type[BaseModel], reserved: frozenset[str]
) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    known = {field.alias or name for name, field in model.model_fields.items()}
    return [
        {"loc": ["body", name], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}
        for name in value
        if name in reserved and name not in known
    ]
