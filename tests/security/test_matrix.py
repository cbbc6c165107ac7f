"""Route × credential. What is new, a route or a way to say who asks, needs its row here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from api.app import OPERATIONS, SURFACES, create_app
from api.openapi import build_document
from shared.service.credentials import PREFIX_OF
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.security import routes
from tests.security.conftest import Target, Unharmed
from tests.security.credentials import (
    ACCEPTED,
    CARRIERS,
    IN_THE_URL,
    NOT_YET,
    PREFIXES,
    REFUSED,
    bearer,
)
from tests.security.dialects import DIALECTS
from tests.security.routes import (
    ASKED_BY_ANYBODY,
    BY_SESSION_ALONE,
    GUARDED,
    PUBLIC,
    ROUTES,
    VALID,
    Place,
    Route,
)
from tests.security.surfaces import FRONTS, PREFLIGHTS, TABLES
from tests.security.wire import Answer, require_problem, send

_PREFIX = re.compile(r'"(vai_[a-z]+_?)"')


def test_every_vector_of_the_checklist_has_a_place() -> None:
    tried = {f"A{number:02}" for number in range(1, 18)} - {"A05", "A06", "A12"}
    assert tried | set(NOT_YET) == {f"A{number:02}" for number in range(1, 18)}
    assert not tried & set(NOT_YET)


def of(route: Route) -> str:
    return route.name


def test_every_route_has_a_row() -> None:
    settings = Settings.model_validate(
        {"database_url": "postgresql://x", "redis_url": "redis://x", "key_pepper": "p" * 16}
    )
    rows = {name for table in TABLES.values() for name in table}
    assert routes.names_of(create_app(settings)) == rows | PUBLIC | PREFLIGHTS
    assert set(VALID) <= rows | PUBLIC


def test_each_surface_has_its_own_rows() -> None:
    assert set(TABLES) == {"primary", *(surface.name for surface in SURFACES)} == set(DIALECTS)
    for front in FRONTS:
        served = [f"{operation.method} {operation.path}" for operation in front.operations]
        assert sorted(served) == sorted(TABLES[front.name]), front.name


def test_only_the_plain_routes_are_public() -> None:
    assert {route.name for route in ROUTES if route.operation is None} == PUBLIC
    public = {route.name for route in ROUTES if route.operation and route.operation.is_public}
    assert public == ASKED_BY_ANYBODY


def test_every_kind_of_credential_has_a_row() -> None:
    document = build_document(OPERATIONS)
    assert set(document["components"]["securitySchemes"]) == set(CARRIERS)
    sources = [path for name in ("api", "shared") for path in Path(name).rglob("*.py")]
    found = {prefix for path in sources for prefix in _PREFIX.findall(path.read_text())}
    assert found == set(PREFIXES)
    taken = {kind for front in FRONTS for kind in front.takes}
    assert taken >= set(PREFIX_OF)
    assert taken | {CredentialKind.SESSION, CredentialKind.PROVIDER} == set(CredentialKind)


@pytest.mark.parametrize("route", ROUTES, ids=of)
async def test_a_valid_request_succeeds(target: Target, unharmed: Unharmed, route: Route) -> None:
    unharmed.rows_changed = True
    for kind, make in (ACCEPTED if route in GUARDED else {"none": lambda _: ()}).items():
        place = await target.place_for(route)
        keys = target.owner.keys
        if route.name in BY_SESSION_ALONE:
            keys = replace(keys, session=await target.new_session(target.owner))
        answer = await send(target.port, route.request(place, make(keys)))
        assert answer.status == route.status_for(kind), (kind, answer.body)


@pytest.mark.parametrize("route", GUARDED, ids=of)
async def test_a_wrong_credential_is_refused(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    told: dict[tuple[object, ...], str] = {}
    for name, make in REFUSED.items():
        request = route.request(target.owner.place, make(target.owner.keys))
        answer = await send(target.port, request)
        require_refusal(answer, target, name)
        told[answer.told()] = name
        unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)
    assert len(told) == 1, "refusals differ: they tell what is wrong"


@pytest.mark.parametrize("route", GUARDED, ids=of)
async def test_a_credential_in_the_url_is_none(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    secret = target.owner.keys.good.encode()
    for name in IN_THE_URL:
        request = route.request(target.owner.place, ()).with_query(name.encode() + b"=" + secret)
        require_refusal(await send(target.port, request), target, name)


@pytest.mark.parametrize("route", GUARDED, ids=of)
async def test_a_stranger_is_refused_before_anything_is_looked_at(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """Neither a wrong id, nor a body without end, nor its type is told to who may not ask."""
    request = route.request(target.owner.place, bearer("vai_sk_wrong"))
    bad_id = route.request(Place("x", "x"), bearer("vai_sk_wrong"))
    require_refusal(await send(target.port, bad_id), target, "bad id")
    if route.has_body or route.has_form:
        for framing in (b"content-length: 10000000000\r\n", b"transfer-encoding: chunked\r\n"):
            endless = replace(request, body=None, framing=framing)
            require_refusal(await send(target.port, endless), target, framing)
        typeless = request.without(b"content-type").with_body(b"[" * 100_000)
        require_refusal(await send(target.port, typeless), target, "no type")


def require_refusal(answer: Answer, target: Target, name: object) -> None:
    require_problem(answer, name)
    assert answer.status == 401, (name, answer.status)
    assert answer.header("www-authenticate") == "Bearer", name
    assert target.owner.keys.good[:20].encode() not in answer.body, name
