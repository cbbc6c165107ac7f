"""A14: what a browser sends of itself lets no other site act for who is signed in."""

from __future__ import annotations

import orjson
import pytest

from tests.security.conftest import Target, Unharmed
from tests.security.credentials import cookie
from tests.security.routes import BY_SESSION_ALONE, GUARDED, LOGIN, ROUTES, Route
from tests.security.wire import require_problem, send

UNSAFE = [route for route in GUARDED if route.method not in {"GET", "HEAD"}]
SAFE = [route for route in GUARDED if route.method == "GET"]
FOREIGN: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "nothing": (),
    "cross-site": ((b"sec-fetch-site", b"cross-site"),),
    "same-site": ((b"sec-fetch-site", b"same-site"),),
    "another origin": ((b"origin", b"https://evil.example"),),
    "an origin that begins like ours": ((b"origin", b"http://test.evil.example"),),
    "origin null": ((b"origin", b"null"),),
    "another referer": ((b"referer", b"https://evil.example/http://test/"),),
    "our origin, another site": ((b"sec-fetch-site", b"cross-site"), (b"origin", b"http://test")),
    "forged proxy": ((b"origin", b"https://evil.example"), (b"x-forwarded-host", b"evil.example")),
}
OURS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "same-origin": ((b"sec-fetch-site", b"same-origin"),),
    "our origin": ((b"origin", b"http://test"),),
    "our referer": ((b"referer", b"http://test/page"),),
}


def of(route: Route) -> str:
    return route.name


def bare(secret: str) -> tuple[tuple[bytes, bytes], ...]:
    return cookie(secret)[:1]


@pytest.mark.parametrize("route", UNSAFE, ids=of)
async def test_another_site_changes_nothing(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """403 comes before the body and the ids are looked at, so nothing is learnt either."""
    for name, headers in FOREIGN.items():
        credential = bare(target.owner.keys.session) + headers
        answer = await send(target.port, route.request(target.owner.place, credential))
        require_problem(answer, name)
        assert answer.status == 403, (name, answer.status)
        assert answer.json["detail"] == "Forbidden"
        if route.has_body:
            form = route.request(target.owner.place, credential).without(b"content-type")
            typed = form.with_headers((b"content-type", b"text/plain")).with_body(b"{")
            assert (await send(target.port, typed)).status == 403, name


@pytest.mark.parametrize("route", UNSAFE, ids=of)
async def test_our_own_pages_may(target: Target, unharmed: Unharmed, route: Route) -> None:
    unharmed.rows_changed = True
    for name, headers in OURS.items():
        session = target.owner.keys.session
        if route.name in BY_SESSION_ALONE:
            session = await target.new_session(target.owner)
        place = await target.new_place(target.owner)
        answer = await send(target.port, route.request(place, bare(session) + headers))
        assert answer.status == route.status, (name, answer.body)


@pytest.mark.parametrize("route", SAFE, ids=of)
async def test_reading_needs_no_proof_and_is_shown_to_no_other_site(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    for headers in FOREIGN.values():
        credential = bare(target.owner.keys.session) + headers
        answer = await send(target.port, route.request(target.owner.place, credential))
        assert answer.status == route.status
        assert answer.header("access-control-allow-origin") is None
        assert answer.header("access-control-allow-credentials") is None


async def test_nobody_is_signed_in_by_another_site(target: Target, unharmed: Unharmed) -> None:
    (route,) = (route for route in ROUTES if route.name == LOGIN)
    for name, headers in FOREIGN.items():
        if name == "nothing":
            continue
        answer = await send(target.port, route.request(target.owner.place, headers))
        assert answer.status == 403, name
        assert answer.header("set-cookie") is None


async def test_the_cookie_of_a_sign_in(target: Target, unharmed: Unharmed) -> None:
    """A17: a new value each time, whatever was planted; Secure but on this machine."""
    unharmed.rows_changed = True
    (route,) = (route for route in ROUTES if route.name == LOGIN)
    seen = set()
    for planted in (b"", b"vai_token=vai_ses_planted", b"vai_token=" + b"x" * 5000):
        request = route.request(target.owner.place, ((b"cookie", planted),))
        answer = await send(target.port, request)
        assert answer.status == 204
        told = answer.header("set-cookie") or ""
        value, _, attributes = told.partition("; ")
        assert attributes == "Path=/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure"
        assert value.startswith("vai_token=vai_ses_")
        assert "planted" not in value
        seen.add(value)
    assert len(seen) == 3


async def test_passwords_are_repeated_nowhere(target: Target, unharmed: Unharmed) -> None:
    """The fixture looks into the log as well."""
    (route,) = (route for route in ROUTES if route.name == LOGIN)
    assert isinstance(route.body, dict)
    valid = route.body
    for changes in ({"email": "nobody@example.org"}, {"email": 1}, {"organization": 5}):
        request = route.request(target.owner.place, ())
        answer = await send(target.port, request.with_body(orjson.dumps(valid | changes)))
        assert answer.status in {401, 422}
        assert valid["password"].encode() not in answer.body
