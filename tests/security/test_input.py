"""Hostile requests, each to every route where it can apply: refused in our dialect, no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.security.conftest import Target, Unharmed
from tests.security.credentials import bearer
from tests.security.routes import GUARDED, LOGIN, ROUTES, WITH_BODY, Route
from tests.security.vectors import (
    FORGED,
    HOSTS,
    NOT_YET,
    ODD_TEXTS,
    ODD_VALUES,
    OVERRIDES,
    REFUSED,
    Vector,
    model_of,
)
from tests.security.wire import Answer, Request, require_problem, send


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector.name)
async def test_is_refused(target: Target, unharmed: Unharmed, vector: Vector) -> None:
    assert vector.routes, "applies nowhere"
    for route in vector.routes:
        valid = route.request(target.owner.place, bearer(target.owner.keys.good))
        answer = await send(target.port, vector.change(valid))
        require_problem(answer, route.name)
        assert answer.status in vector.statuses, (route.name, answer.status, answer.body[:200])
        assert target.owner.keys.good.encode() not in answer.body
        unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)
        if answer.status in {400, 431}:
            assert answer.header("connection") == "close", route.name
        if answer.status == 405:
            assert answer.header("allow"), route.name


def test_what_is_not_tried_does_not_exist() -> None:
    numbers = {f"S{number:02}" for number in range(1, 23)}
    tried = {vector.name[:3] for vector in REFUSED} | {"S15", "S20", "S22"}
    tried |= {f"S{number:02}" for number in range(2, 8)}
    tried |= {"S19"}  # test_files.py, tests/integration/files/test_reading.py
    assert tried | set(NOT_YET) >= numbers


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_only_an_upload_takes_multipart_and_none_serves_ranges(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """One that takes forms needs `form` in its operation, and so the vectors of S17 to S19."""
    valid = route.request(target.owner.place, bearer(target.owner.keys.good))
    if route.has_body:
        form = (
            b'--x\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\n1\r\n--x--\r\n'
        )
        typed = valid.without(b"content-type").with_body(form)
        answer = await send(
            target.port,
            typed.with_headers((b"content-type", b"multipart/form-data; boundary=x")),
        )
        assert answer.status == 415
    elif route.method == "GET":
        answer = await send(target.port, valid.with_headers((b"range", b"bytes=0-0,-1,0-")))
        assert answer.status == route.status
        assert answer.header("accept-ranges") is None


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.name)
async def test_odd_values_harm_nothing(target: Target, unharmed: Unharmed, route: Route) -> None:
    """Some are fine, most are not; none is a defect, and every answer is in our dialect."""
    unharmed.rows_changed = True
    place = await target.new_place(target.owner)
    valid = route.request(place, bearer(target.owner.keys.good))
    fields = [field.alias or name for name, field in model_of(route).model_fields.items()]
    for name in fields:
        for value in ODD_VALUES:
            body = orjson.loads(valid.body or b"{}") | {name: value}
            answer = await send(target.port, valid.with_body(orjson.dumps(body)))
            require_answer(answer, (name, value))
            unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=repr)
async def test_texts_are_data(target: Target, unharmed: Unharmed, text: str) -> None:
    """S20: what is stored comes back as it was, whatever it would mean elsewhere."""
    unharmed.rows_changed = True
    place = await target.new_place(target.owner)
    credential = bearer(target.owner.keys.good)
    thread = Request(b"PATCH", f"/api/v1/chat/threads/{place.thread_id}".encode(), credential)
    wanted: dict[str, Any] = {"title": text, "systemPrompt": text, "metadata": {text: text}}
    json = (b"content-type", b"application/json")
    await send(target.port, thread.with_body(orjson.dumps(wanted)).with_headers(json))
    told = (await send(target.port, replace(thread, method=b"GET"))).json
    assert {name: told[name] for name in wanted} == wanted

    submit = Request(b"POST", thread.target + b"/turns", credential)
    body = {"message": text + ".", "modelId": "scripted", "settings": {"note": text}}
    answer = await send(target.port, submit.with_body(orjson.dumps(body)).with_headers(json))
    assert answer.status == 202
    assert answer.json["settings"]["note"] == text
    for name, value in answer.headers:
        assert name in KNOWN_HEADERS, (name, value)


KNOWN_HEADERS = {
    "date", "etag", "vary", "cache-control", "retry-after", "location", "content-length",
    "content-type", "connection",
}  # fmt: skip


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.name)
async def test_texts_in_headers_are_not_repeated(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """S12, S20: header values reach no header, no log and no file."""
    unharmed.rows_changed = True
    valid = route.request(await target.place_for(route), bearer(target.owner.keys.good))
    for name in (
        b"prefer",
        b"x-user-timezone",
        b"if-none-match",
        b"last-event-id",
        b"x-request-id",
    ):
        for value in (
            b"evil-value",
            b"../../../etc/passwd",
            b"\xff\xfe",
            b"wait=\xb2",
            b"*" * 5000,
        ):
            answer = await send(target.port, valid.with_headers((name, value)))
            require_answer(answer, (name, value))
            assert all("evil-value" not in text for _, text in answer.headers)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.name != LOGIN], ids=lambda route: route.name
)
async def test_nobody_is_told_who_they_are(
    target: Target, unharmed: Unharmed, route: Route
) -> None:
    """S21, S22, A09, A15: hosts, proxies, tenants, origins and methods in headers mean nothing.

    To who brings a key, that is: what an origin means with a cookie is in `test_csrf.py`.
    """
    unharmed.rows_changed = True
    reads = route.method == "GET"
    credential = bearer(target.owner.keys.good)

    async def prepare() -> Request:
        return route.request(await target.place_for(route), credential)

    plain = await send(target.port, await prepare())
    headers = [*FORGED, *OVERRIDES]
    for forged in [(header,) for header in headers] if reads else [headers]:
        answer = await send(target.port, (await prepare()).with_headers(*forged))
        require_same(answer, plain, forged)
    for host in HOSTS:
        answer = await send(target.port, replace(await prepare(), host=host))
        require_same(answer, plain, host)


def require_same(answer: Answer, plain: Answer, name: object) -> None:
    assert answer.status == plain.status, name
    assert [header for header, _ in answer.headers] == [header for header, _ in plain.headers], name
    assert all("forged" not in value for _, value in answer.headers), name
    assert b"forged.example" not in answer.body, name
    assert answer.header("access-control-allow-origin") is None


def require_answer(answer: Answer, name: object) -> None:
    assert answer.status < 500, (name, answer.status, answer.body[:300])
    if answer.status >= 400:
        require_problem(answer, name)


async def test_nothing_else_is_spoken(target: Target, unharmed: Unharmed) -> None:
    """S13, S21: no other protocol, no tunnel, no upgrade; it stays HTTP or ends."""
    for opening in (
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil.example/livez HTTP/9.9\r\n\r\n",
        b"get /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1 HTTP/1.1\r\n\r\n",
        b"GET /liv\xc3\xa9z HTTP/1.1\r\n\r\n",
        b"GET /livez\0 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"*1\r\n$4\r\nPING\r\n",
        b"GET /livez HTTP/1.1\nhost: x\n\n",
    ):
        answer = await send(target.port, opening)
        assert 400 <= answer.status < 500, (opening, answer.status)
        require_problem(answer, opening)
    upgrade = b"connection: upgrade\r\nupgrade: %b\r\n\r\n"
    for kind in (b"websocket", b"h2c", b"x"):
        data = b"GET /livez HTTP/1.1\r\nhost: x\r\n" + upgrade % kind
        reader_answer = await send(
            target.port, data.replace(b"upgrade\r\nu", b"close, upgrade\r\nu")
        )
        assert reader_answer.status == 200
