"""Hostile requests to the surfaces beside the primary one: what `test_input.py` tries there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.security.conftest import Target, Unharmed
from tests.security.surfaces import BESIDE, Asked, Front
from tests.security.vectors import (
    FORGED,
    FRAMINGS,
    HOSTS,
    KEYS,
    ODD_TEXTS,
    ODD_VALUES,
    OVERRIDES,
)
from tests.security.wire import Answer, Request, send

pytestmark = [
    pytest.mark.parametrize("front", BESIDE, ids=lambda front: front.name),
    pytest.mark.timeout(60),
]
VALUES = [value for value in ODD_VALUES if value not in ODD_TEXTS]


def require_answer(front: Front, answer: Answer, name: object) -> None:
    """An answer that was meant, or an error in the dialect."""
    assert answer.status < 500 or answer.status == 504, (name, answer.status, answer.body[:300])
    is_verdict = answer.status == 400 and answer.body.startswith(b'{"valid":')
    if answer.status >= 400 and not is_verdict:
        front.require(answer, answer.status, name)


async def fresh(target: Target, front: Front) -> Any:
    """Things of the owner's that may come to harm."""
    return (await target.lodge(target.owner, front.name)).ids


async def test_odd_values_harm_nothing(target: Target, unharmed: Unharmed, front: Front) -> None:
    unharmed.rows_changed = True
    credential, ids = front.credential(target.owner.keys), await fresh(target, front)
    for asked in front.asked:
        model = asked.operation.body
        for field, known in {} if model is None else model.model_fields.items():
            valid = asked.request(ids, credential)
            name = known.alias or field
            for value in VALUES:
                body = orjson.loads(valid.body or b"{}") | {name: value}
                answer = await send(target.port, valid.with_body(orjson.dumps(body)))
                require_answer(front, answer, (asked.name, name, str(value)[:50]))
                unharmed.slowest_s = max(unharmed.slowest_s, answer.took_s)


async def test_odd_queries_harm_nothing(target: Target, unharmed: Unharmed, front: Front) -> None:
    unharmed.rows_changed = True
    credential, ids = front.credential(target.owner.keys), await fresh(target, front)
    for asked in front.asked:
        for name in asked.query_fields:
            for value in (b"%27%20or%201=1--", b"%ff", b"%0d%0aset-cookie:%20a=b", b"x" * 20_000):
                request = replace(asked.request(ids, credential), method=b"GET", body=None)
                bare = replace(request, target=request.target.partition(b"?")[0])
                if asked.operation.method == "GET":
                    answer = await send(target.port, bare.with_query(name.encode() + b"=" + value))
                    require_answer(front, answer, (asked.name, name, value[:30]))
                    assert answer.header("set-cookie") is None


async def test_heads_that_nobody_agrees_about(
    target: Target, unharmed: Unharmed, front: Front
) -> None:
    """What has no readable head has no path: the answer is the primary surface's, and the end."""
    credential = front.credential(target.owner.keys)
    for asked in front.asked[:4]:
        valid = asked.request(target.owner.ids(front.name), credential)
        for name, framing in FRAMINGS.items():
            answer = await send(target.port, replace(valid, framing=framing))
            assert answer.status == 400, (asked.name, name, answer.status)
            assert answer.header("connection") == "close", (asked.name, name)


async def test_texts_in_headers_are_not_repeated(
    target: Target, unharmed: Unharmed, front: Front
) -> None:
    unharmed.rows_changed = True
    names = (b"prefer", b"x-user-timezone", b"x-org", b"last-event-id", b"x-request-id")
    for asked in front.asked:
        valid = asked.request(await fresh(target, front), front.credential(target.owner.keys))
        for name in names:
            for value in (b"evil-value", b"\xff\xfe"):
                answer = await send(target.port, valid.with_headers((name, value)))
                require_answer(front, answer, (asked.name, name, value[:30]))
                assert all("evil-value" not in text for _, text in answer.headers)
                assert b"evil-value" not in answer.body


async def test_nobody_is_told_who_they_are(
    target: Target, unharmed: Unharmed, front: Front
) -> None:
    """Hosts, proxies, tenants, origins and methods in headers mean nothing."""
    unharmed.rows_changed = True
    credential = front.credential(target.owner.keys)
    for asked in [one for one in front.asked if one.operation.method == "GET"]:
        request = asked.request(target.owner.ids(front.name), credential)
        plain = await send(target.port, request)
        assert plain.status == asked.row.status, asked.name
        for forged in [*FORGED, *OVERRIDES]:
            answer = await send(target.port, request.with_headers(forged))
            require_same(answer, plain, (asked.name, forged))
        for host in HOSTS:
            answer = await send(target.port, replace(request, host=host))
            require_same(answer, plain, (asked.name, host[:40]))


def require_same(answer: Answer, plain: Answer, name: object) -> None:
    assert answer.status == plain.status, name
    assert [header for header, _ in answer.headers] == [header for header, _ in plain.headers], name
    assert all("forged" not in value for _, value in answer.headers), name
    assert b"forged.example" not in answer.body, name


async def test_idempotency_keys_are_short_and_printable(
    target: Target, unharmed: Unharmed, front: Front
) -> None:
    """The body of these surfaces has no such member: the header decides alone."""
    keyed = [one for one in front.asked if "Idempotency-Key" in _headers(one)]
    assert bool(keyed) == (front.name in {"kodey", "responses", "zylon"})
    for asked in keyed:
        valid = asked.request(target.owner.ids(front.name), front.credential(target.owner.keys))
        for vector in KEYS:
            if "body" not in vector.name:
                answer = await send(target.port, vector.change(valid))
                front.require(answer, 400, (asked.name, vector.name))


def _headers(asked: Asked) -> list[str]:
    return [header.name for header in asked.operation.headers]


WRITTEN = {
    "mm_create_message": "content",
    "kodey_create_chat": "userId",
    "zylon_update_thread": "name",
    "update_conversation": "metadata",
}


async def test_texts_are_data(target: Target, unharmed: Unharmed, front: Front) -> None:
    """What is stored comes back as it was, whatever it would mean elsewhere."""
    unharmed.rows_changed = True
    (asked,) = (one for one in front.asked if one.operation.operation_id in WRITTEN)
    name = WRITTEN[asked.operation.operation_id]
    ids = target.owner.ids(front.name)
    valid: Request = asked.request(ids, front.credential(target.owner.keys))
    for text in ODD_TEXTS:
        value: Any = {text[:64]: text} if name == "metadata" else text
        body = orjson.loads(valid.body or b"{}") | {name: value}
        answer = await send(target.port, valid.with_body(orjson.dumps(body)))
        assert answer.status == asked.row.status, (text, answer.body[:300])
        assert answer.json[name] == value
