"""From where a request comes, as its headers tell: RELIABILITY A14."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from api.origin import is_secure, refuse_other_sites, require_own_site
from api.session_cookie import write_cookie
from shared.errors import Forbidden

Pairs = list[tuple[str, str]]


def make_request(headers: Pairs, public_url: str | None = None) -> Any:
    state = SimpleNamespace(settings=SimpleNamespace(public_url=public_url))
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw, "app": SimpleNamespace(state=state)})


HOST = ("host", "chat.example")
OURS: list[Pairs] = [
    [HOST, ("sec-fetch-site", "same-origin")],
    [HOST, ("sec-fetch-site", "none")],
    [("host", "another.example"), ("sec-fetch-site", "same-origin")],
    [HOST, ("origin", "https://chat.example")],
    [HOST, ("origin", "https://CHAT.example:443")],
    [("host", "chat.example:8000"), ("origin", "http://chat.example:8000")],
    [HOST, ("referer", "https://chat.example/some/page?x")],
    [HOST, ("origin", "https://chat.example"), ("referer", "https://evil.example/")],
]
THEIRS: list[Pairs] = [
    [HOST, ("sec-fetch-site", "cross-site")],
    [HOST, ("sec-fetch-site", "same-site")],
    [HOST, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    [HOST, ("sec-fetch-site", "cross-site"), ("origin", "https://chat.example")],
    [HOST, ("sec-fetch-site", "")],
    [HOST, ("origin", "https://evil.example")],
    [HOST, ("origin", "https://chat.example.evil.example")],
    [HOST, ("origin", "https://evil.example/chat.example")],
    [HOST, ("origin", "https://chat.example@evil.example")],
    [HOST, ("origin", "https://chat.example:8443")],
    [HOST, ("origin", "null")],
    [HOST, ("origin", "")],
    [HOST, ("origin", "file://")],
    [HOST, ("origin", "chat-extension://chat.example")],
    [HOST, ("origin", "https://[")],
    [HOST, ("origin", "https://chat.example"), ("origin", "https://evil.example")],
    [HOST, ("referer", "https://evil.example/https://chat.example/")],
    [("origin", "https://chat.example")],
    [HOST, HOST, ("origin", "https://chat.example")],
    [("host", ""), ("origin", "https://")],
]


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_ours(headers: Pairs) -> None:
    require_own_site(make_request(headers))
    refuse_other_sites(make_request(headers))


@pytest.mark.parametrize("headers", THEIRS, ids=str)
def test_theirs(headers: Pairs) -> None:
    for check in (require_own_site, refuse_other_sites):
        with pytest.raises(Forbidden):
            check(make_request(headers))


def test_a_program_shows_nothing() -> None:
    refuse_other_sites(make_request([HOST]))
    with pytest.raises(Forbidden):
        require_own_site(make_request([HOST]))


def test_with_a_public_url_the_host_means_nothing() -> None:
    url = "https://chat.example"
    require_own_site(make_request([("host", "10.0.0.1"), ("origin", url)], url))
    for origin in ("http://chat.example", "https://10.0.0.1"):
        with pytest.raises(Forbidden):
            require_own_site(make_request([("host", "10.0.0.1"), ("origin", origin)], url))


@pytest.mark.parametrize(
    ("host", "public_url", "expected"),
    [
        ("chat.example", None, True), ("localhost", None, False), ("LOCALHOST:80", None, False),
        ("127.0.0.1:8000", None, False), ("[::1]:8000", None, False), ("[::1]", None, False),
        ("localhost.evil.example", None, True), ("", None, True), ("10.0.0.1", None, True),
        ("localhost", "https://chat.example", True), ("chat.example", "http://chat.lan", False),
    ],
)  # fmt: skip
def test_a_cookie_travels_by_tls_alone(host: str, public_url: str | None, expected: bool) -> None:
    request = make_request([("host", host)], public_url)
    assert is_secure(request) is expected
    cookie = write_cookie(request, "v", 60)
    assert cookie.startswith("vai_token=v; Path=/; Max-Age=60; HttpOnly; SameSite=Lax")
    assert cookie.endswith("; Secure") is expected
    assert "domain" not in cookie.lower()
