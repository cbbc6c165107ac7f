"""Routes and the OpenAPI 3.1 document, made from one table of operations: they cannot differ."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from api.session_cookie import COOKIE
from api.wire import rendered_response

Answer = ASGIApp
"""A Starlette response, or anything else that can be called as one."""
Handler = Callable[[Request], Awaitable[Answer]]
EVENT_STREAM: Final = "text/event-stream"
ANY_TYPE: Final = "*/*"
"""Bytes of whatever type they have."""
_REF: Final = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Header:
    """A request header; every one is optional."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


class ErrorItem(BaseModel):
    """What is wrong with one value; `type` follows pydantic's names."""

    loc: list[str | int]
    msg: str
    type: str


class ValidationProblem(BaseModel):
    detail: list[ErrorItem]


class Problem(BaseModel):
    """RFC 9457 with the members every reader of this API expects. 409 and 410 add `turnId`."""

    detail: str
    title: str
    status: int
    type: str
    turnId: str | None = None  # noqa: N815 - as it is on the wire


@dataclass(frozen=True, slots=True)
class Manner:
    """What is the same of all operations of a surface: how it tells errors, and who may ask."""

    problem: type[BaseModel] = Problem
    problems: Mapping[int, type[BaseModel]] = field(
        default_factory=lambda: {HTTPStatus.UNPROCESSABLE_ENTITY: ValidationProblem}
    )
    """Statuses whose body is another."""
    invalid: int = HTTPStatus.UNPROCESSABLE_ENTITY
    """The status of a request with wrong values."""
    credentials: tuple[str, ...] | None = None
    """Security schemes, any of which will do; None: those of the document."""
    has_opaque_ids: bool = False
    """Ids in paths are any text; else a malformed one is a wrong value."""
    takes_cookies: bool = True

    def model(self, status: int) -> type[BaseModel]:
        """The body of an error."""
        return self.problems.get(status, self.problem)

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        return (*self.problems.values(), self.problem)


PRIMARY: Final = Manner()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `responses` maps success statuses to what the body holds."""

    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
    path: str
    handler: Handler
    tag: str
    summary: str
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    """In place of `body`: what `multipart/form-data` carries."""
    also_documents: tuple[type[BaseModel], ...] = ()
    """Models that the body's schema refers to by name."""
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    responses: Mapping[int, type[BaseModel] | str | None] = field(
        default_factory=lambda: {HTTPStatus.OK: None}
    )
    errors: tuple[int, ...] = ()
    """Statuses beyond those every operation of its kind has."""
    also_streams: bool = False
    """Where it is asked for, 200 is an event stream instead."""
    is_public: bool = False
    """Asked without a credential."""
    manner: Manner = PRIMARY

    @property
    def operation_id(self) -> str:
        return getattr(self.handler, "__name__", self.summary)

    @property
    def path_parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


# -- routes


def routes_from(operations: Iterable[Operation], plain: Iterable[Route] = ()) -> list[Route]:
    """One route per path, so that a wrong method is told all the right ones.

    `plain` ones are beside the operations, one per path.
    """
    beside = {route.path: route for route in plain}
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        methods = by_path.setdefault(operation.path, {})
        if operation.method in methods:
            raise ValueError(f"{operation.method} {operation.path} stands twice")
        methods[operation.method] = operation
    routes = [_route(path, methods, beside.pop(path, None)) for path, methods in by_path.items()]
    return [*routes, *beside.values()]


def _route(path: str, operations: dict[str, Operation], plain: Route | None) -> Route:
    handlers = {method: operation.handler for method, operation in operations.items()}
    if plain is not None:
        handlers |= dict.fromkeys(plain.methods or (), plain.endpoint)
    get = operations.get("GET")
    streams = get is not None and (get.also_streams or EVENT_STREAM in get.responses.values())
    if get is not None and not streams:
        handlers["HEAD"] = get.handler

    async def dispatch(request: Request) -> Answer:
        return await handlers[request.method](request)

    route = Route(path, dispatch, methods=sorted(handlers), name=path)
    route.methods = set(handlers)  # Starlette adds HEAD to any GET; a stream has none
    return route


# -- the document


def build_document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    schemas = _collect_schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _describe(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Turnkeep",
            "version": _version(),
            "description": "Conversation turns with LLM agents: accepted once, never lost.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
        "security": [{"bearer": []}, {"apiKey": []}, {"cookie": []}],
    }


def serve_document(operations: Sequence[Operation]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that serves the document of `operations`, which is built when first asked for."""
    document = functools.cache(lambda: orjson.dumps(build_document(operations)))

    async def serve_openapi(_: Request) -> Response:
        # It takes 100 ms, in which a process has other things to do.
        data = await asyncio.to_thread(document)
        return rendered_response(data)

    return serve_openapi


@dataclass(frozen=True, slots=True)
class _Schemas:
    references: Mapping[Any, dict[str, Any]]
    definitions: dict[str, Any]

    def of(self, model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
        return self.references[model, mode]


def _collect_schemas(operations: Iterable[Operation]) -> _Schemas:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for operation in operations:
        wanted += [(model, "serialization") for model in operation.manner.models]
        asked = (operation.body, operation.form, operation.query, *operation.also_documents)
        wanted += [(model, "validation") for model in asked if model is not None]
        answered = operation.responses.values()
        wanted += [(model, "serialization") for model in answered if isinstance(model, type)]
    references, definitions = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    return _Schemas(references, definitions.get("$defs", {}))


def _describe(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": list(_parameters(operation, schemas)),
        "responses": {
            **{str(status): response for status, response in _successes(operation, schemas)},
            **{str(status): response for status, response in _errors(operation, schemas)},
        },
    }
    if operation.is_public:
        described["security"] = []
    elif operation.manner.credentials is not None:
        described["security"] = [{name: []} for name in operation.manner.credentials]
    if description := inspect.getdoc(operation.handler):
        described["description"] = description
    if operation.body is not None:
        schema = schemas.of(operation.body, "validation")
        described["requestBody"] = {
            "required": False,
            "content": {"application/json": {"schema": schema}},
        }
    if operation.form is not None:
        schema = schemas.of(operation.form, "validation")
        described["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data": {"schema": schema}},
        }
    return described


def _parameters(operation: Operation, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    format_ = {} if operation.manner.has_opaque_ids else {"format": "uuid"}
    for name in operation.path_parameters:
        schema_of_id = {"type": "string", **format_}
        yield {"name": name, "in": "path", "required": True, "schema": schema_of_id}
    if operation.query is not None:
        reference = schemas.of(operation.query, "validation")["$ref"]
        schema = schemas.definitions[reference.rpartition("/")[2]]
        for name, property_ in schema["properties"].items():
            required = name in schema.get("required", ())
            yield {"name": name, "in": "query", "required": required, "schema": property_}
    for header in operation.headers:
        yield {"in": "header", "required": False, **_header(header), "name": header.name}


def _header(header: Header) -> dict[str, Any]:
    return {"description": header.description, "schema": dict(header.schema)}


def _successes(operation: Operation, schemas: _Schemas) -> Iterator[tuple[int, dict[str, Any]]]:
    for status, answer in operation.responses.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if isinstance(answer, str):
            # Of a stream, OpenAPI 3.1 has no words for the events, and one string it is not.
            is_known = answer not in (EVENT_STREAM, ANY_TYPE)
            media = {"schema": {"type": "string"}} if is_known else {}
            response["content"] = {answer: media}
        elif answer is not None:
            schema = schemas.of(answer, "serialization")
            response["content"] = {"application/json": {"schema": schema}}
            if operation.also_streams:
                response["content"][EVENT_STREAM] = {}
        yield int(status), response


def _errors(operation: Operation, schemas: _Schemas) -> Iterator[tuple[int, dict[str, Any]]]:
    manner = operation.manner
    invalid = {int(manner.invalid)}
    statuses = {401, 429, 500, 503, *operation.errors}
    if operation.method != "GET" and manner.takes_cookies:
        statuses |= {403}  # signed in by a cookie, and sent by another site
    if operation.path_parameters:
        statuses |= {404} if manner.has_opaque_ids else {404, *invalid}
    if operation.query is not None:
        statuses |= invalid
    if operation.body is not None or operation.form is not None:
        statuses |= {408, 413, 415, *invalid}
    for status in sorted(statuses):
        schema = schemas.of(manner.model(status), "serialization")
        yield (
            status,
            {
                "description": HTTPStatus(status).phrase,
                "content": {"application/json": {"schema": schema}},
            },
        )


def _version() -> str:
    try:
        return version("turnkeep")
    except PackageNotFoundError:
        return "0.1.0"
