"""The document describes exactly the routes that exist, in valid OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openapi_spec_validator
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from api.app import ALL_OPERATIONS, OPERATIONS
from api.openapi import EVENT_STREAM, Operation, build_document, routes_from, serve_document
from api.problems import EXCEPTION_HANDLERS

DOCUMENT = build_document(OPERATIONS)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, described in methods.items():
            yield path, method, described


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for reference in set(references(DOCUMENT)):
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert name in schemas


def test_operation_ids_are_unique() -> None:
    ids = [described["operationId"] for _, _, described in operations()]
    assert len(ids) == len(set(ids))


def test_document_and_routes_are_the_same() -> None:
    routed = {
        (route.path, method.lower())
        for route in routes_from(OPERATIONS)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert routed == {(path, method) for path, method, _ in operations()}


def test_operations_are_whole() -> None:
    for path, _, described in operations():
        in_path = {p["name"] for p in described["parameters"] if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        keys = [(p["in"], p["name"]) for p in described["parameters"]]
        assert len(keys) == len(set(keys))
        assert {"401", "429", "500", "503"} <= set(described["responses"])
        assert any(status.startswith("2") for status in described["responses"])
        for response in described["responses"].values():
            assert response["description"]


def test_validation_errors_are_documented_with_three_keys() -> None:
    schema = DOCUMENT["components"]["schemas"]["ErrorItem"]
    assert set(schema["properties"]) == {"loc", "msg", "type"} == set(schema["required"])


def test_it_is_a_valid_openapi_document() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_the_document_of_the_whole_product_is_valid() -> None:
    document = build_document(ALL_OPERATIONS)
    openapi_spec_validator.validate(document)
    assert len(document["paths"]) == len({operation.path for operation in ALL_OPERATIONS})
    ids = [operation.operation_id for operation in ALL_OPERATIONS]
    assert len(ids) == len(set(ids))


async def test_it_is_served() -> None:
    app = Starlette()
    app.add_route("/openapi.json", serve_document(OPERATIONS))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(DOCUMENT))
    assert answer.json()["openapi"].startswith("3.1")


# -- the builder itself


async def answer(request: Request) -> Response:
    """Answers."""
    return Response(request.method)


class Body(BaseModel):
    text: str


def test_an_operation_cannot_stand_twice() -> None:
    operation = Operation("GET", "/x", answer, "t", "s")
    with pytest.raises(ValueError, match="GET /x"):
        routes_from([operation, operation])


async def test_methods_of_a_path_share_a_route() -> None:
    app = Starlette(
        routes=routes_from(
            [
                Operation("GET", "/x", answer, "t", "s"),
                Operation("POST", "/x", answer, "t", "s", body=Body),
                Operation("GET", "/stream", answer, "t", "s", responses={200: EVENT_STREAM}),
            ]
        ),
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/x")).text == "GET"
        assert (await client.post("/x")).text == "POST"
        assert (await client.head("/x")).status_code == 200
        refused = await client.put("/x")
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
        assert (await client.head("/stream")).status_code == 405
        assert (await client.request("TRACE", "/x")).status_code == 405
