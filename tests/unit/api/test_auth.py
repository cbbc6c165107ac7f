"""Which header decides, and what is no credential."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from api.auth import MAX_SECRET_CHARS, carrier_of, read_secret
from shared.errors import NotAuthenticated
from shared.service.identity import MAX_TOKEN_CHARS


def make_request(*headers: tuple[str, str], query: str = "") -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw, "query_string": query.encode()})


def read_it(request: Request) -> str:
    return read_secret(request, carrier_of(request))


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer s3cret")],
        [("authorization", "bearer  s3cret ")],
        [("x-api-key", "s3cret")],
        [("authorization", "Bearer s3cret"), ("x-api-key", "another")],
        [("x-api-key", "s3cret"), ("cookie", "vai_token=another")],
        [("cookie", "theme=dark; vai_token=s3cret ;a=b")],
        [("cookie", "theme=dark"), ("cookie", "vai_token=s3cret")],
    ],
)
def test_secret(headers: list[tuple[str, str]]) -> None:
    assert read_it(make_request(*headers)) == "s3cret"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Basic dXNlcjpwYXNz")],
        [("authorization", "s3cret")],
        [("authorization", "Bearer s3cret"), ("authorization", "Bearer s3cret")],
        [("x-api-key", "a"), ("x-api-key", "a")],
        [("x-api-key", "")],
        [("x-api-key", "a" * (MAX_SECRET_CHARS + 1))],
        [("authorization", "Bearer " + "a" * (MAX_SECRET_CHARS + 1))],
        [("x-api-key", "schlüssel")],
        [("x-api-key", "a\tb")],
        [("authorization", "Basic x"), ("x-api-key", "s3cret")],
        [("authorization", "Bearer "), ("x-api-key", "s3cret")],
        [("cookie", "vai_token=a; vai_token=b")],
        [("cookie", "vai_token=a"), ("cookie", "vai_token=b")],
        [("cookie", "vai_token=")],
        [("cookie", "VAI_TOKEN=s3cret")],
        [("cookie", "x_vai_token=s3cret; vai_token")],
        [("cookie", "vai_token=" + "a" * (MAX_SECRET_CHARS + 1))],
        [("cookie", "vai_token=s3cret"), ("authorization", "")],
        [("cookie", "vai_token=s3cret"), ("x-api-key", "")],
        [("authorization", "Bearer eyJ.a." + "a" * MAX_TOKEN_CHARS)],
    ],
)
def test_no_secret(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(NotAuthenticated):
        read_it(make_request(*headers))


def test_a_secret_in_the_url_is_no_credential() -> None:
    with pytest.raises(NotAuthenticated):
        read_it(make_request(query="token=s3cret&api_key=s3cret"))
