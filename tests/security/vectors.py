"""Hostile requests by the number each has in the checklist, made from a route's valid request.

A vector is a name, the routes it applies to, what it makes of a valid request, and the statuses it
may be answered with. What cannot be tried yet stands in `NOT_YET`, with what must not exist.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import BaseModel

from api.body import RESERVED
from tests.security.routes import ROUTES, WITH_BODY, WITH_FORM, WITH_ID, WITH_QUERY, Route
from tests.security.wire import Request
from tests.unit.api.test_body import REFUSED as REFUSED_JSON

MIB = 1_048_576
Change = Callable[[Request], Request]


@dataclass(frozen=True, slots=True)
class Vector:
    name: str
    routes: tuple[Route, ...]
    change: Change
    statuses: frozenset[int]


NOT_YET = {
    "S16": "readers that stall or leave: tests/unit/api/test_stream_keeper.py, tests/acceptance",
}


def vector(name: str, routes: list[Route], change: Change, *statuses: int) -> Vector:
    return Vector(name, tuple(routes), change, frozenset(statuses))


# -- S01 sizes


def _endless_length(request: Request) -> Request:
    return replace(request, body=None, framing=b"content-length: 10000000000\r\n")


def _one_byte_too_many(request: Request) -> Request:
    return request.with_body(b" " * (MIB + 1))


def _too_many_chunks(request: Request) -> Request:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    return replace(request, body=chunk * 17, framing=b"transfer-encoding: chunked\r\n")


SIZES = [
    vector("S01 10 GB announced", WITH_BODY, _endless_length, 413),
    vector("S01 1 MiB and a byte", WITH_BODY, _one_byte_too_many, 413),
    vector("S01 chunks beyond 1 MiB", WITH_BODY, _too_many_chunks, 413),
    vector(
        "S09 a million fields",
        WITH_BODY,
        lambda r: r.with_body(
            b"{" + b",".join(b'"%x":0' % number for number in range(1_000_000)) + b"}"
        ),
        413,
    ),
]

# -- S02 to S07: JSON that is none, or that readers disagree about


def _json(data: bytes) -> Change:
    return lambda request: request.with_body(data)


DEPTHS = {f"{count} brackets": b"[" * count for count in (33, 20_000)}
BODIES = [
    vector(f"S02-S07 {name}", WITH_BODY, _json(data), 422)
    for name, data in (REFUSED_JSON | DEPTHS).items()
    if name != "nothing"
]

# -- S08 types


def _typed(*types: bytes, **headers: bytes) -> Change:
    more = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())

    def change(request: Request) -> Request:
        named = tuple((b"content-type", value) for value in types)
        return request.without(b"content-type").with_headers(*named, *more).with_body(b"{}")

    return change


_JSON_TYPE = b"application/json"
_PACKED = gzip.compress(b"{}")
TYPES = [
    vector(f"S08 {name}", WITH_BODY, change, 415)
    for name, change in {
        "no type": _typed(),
        "text": _typed(b"text/plain"),
        "form": _typed(b"application/x-www-form-urlencoded"),
        "multipart": _typed(b"multipart/form-data; boundary=x"),
        "utf-7": _typed(b"application/json; charset=utf-7"),
        "utf-16": _typed(b"application/json; charset=utf-16"),
        "two types": _typed(_JSON_TYPE, b"text/plain"),
        "a list of types": _typed(b"application/json, text/plain"),
        "gzip": _typed(_JSON_TYPE, content_encoding=b"gzip"),
        "two codings": _typed(_JSON_TYPE, content_encoding=b"identity, gzip"),
        "unknown coding": _typed(_JSON_TYPE, content_encoding=b"x"),
        "brotli": _typed(_JSON_TYPE, content_encoding=b"BR"),
    }.items()
] + [
    vector("S08 gzip without a word", WITH_BODY, _json(_PACKED), 422),
]

# -- S09 width, S11 fields of the server


def _fields(**fields: Any) -> Change:
    def change(request: Request) -> Request:
        valid = orjson.loads(request.body or b"{}")
        return request.with_body(orjson.dumps(valid | fields))

    return change


def model_of(route: Route) -> type[BaseModel]:
    assert route.operation is not None
    assert route.operation.body is not None
    return route.operation.body


def _with_field(name: str) -> list[Route]:
    return [route for route in WITH_BODY if name in model_of(route).model_fields]


_OPEN = ("/turns/stream", "/agui")
"""Where clients add members of their own: what is not known is passed over, and changes nothing."""
_CLOSED = [route for route in WITH_BODY if not route.path.endswith(_OPEN)]
_WIDE = {f"k{number}": number for number in range(10_000)}
FIELDS = [
    vector("S09 wide metadata", _with_field("metadata"), _fields(metadata=_WIDE), 422),
    vector("S09 wide settings", _with_field("settings"), _fields(settings=_WIDE), 422),
    vector("S09 long key", _with_field("metadata"), _fields(metadata={"k" * 20_000: 1}), 422),
    *[vector(f"S11 {name}", _CLOSED, _fields(**{name: 1}), 422) for name in sorted(RESERVED)],
]

# -- S10 idempotency keys


def _keyed(*values: bytes) -> Change:
    named = tuple((b"idempotency-key", value) for value in values)
    return lambda request: request.with_headers(*named)


_KEYED = [route for route in ROUTES if route.takes("Idempotency-Key")]
KEYS = [
    vector("S10 empty", _KEYED, _keyed(b""), 422),
    vector("S10 256 characters", _KEYED, _keyed(b"k" * 256), 422),
    vector("S10 60,000 characters", _KEYED, _keyed(b"k" * 60_000), 422),
    vector("S10 tab", _KEYED, _keyed(b"a\tb"), 422),
    vector("S10 emoji", _KEYED, _keyed("😀".encode()), 422),
    vector("S10 latin-1", _KEYED, _keyed(b"\xe9"), 422),
    vector("S10 two", _KEYED, _keyed(b"a", b"b"), 422),
    vector(
        "S10 one that the body denies",
        _KEYED,
        lambda r: _fields(idempotencyKey="a")(_keyed(b"b")(r)),
        422,
    ),
    *[
        vector(f"S10 {name!r} in the body", _KEYED, _fields(idempotencyKey=name), 422)
        for name in ("", "k" * 256, "a\nb", "a\x7fb", "😀", "é", 1, ["k"])
    ],
]

# -- S12 to S14: the head


def _raw(headers: bytes) -> Change:
    return lambda request: replace(request, framing=headers)


FRAMINGS = {
    "S07 NUL in a value": b"x-a: a\0b\r\n",
    "S07 NUL in a name": b"x-\0a: b\r\n",
    "S12 CR in a value": b"x-a: a\rset-cookie: b\r\n",
    "S12 CR in a key": b"idempotency-key: a\rb\r\n",
    "S13 length and chunks": b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
    "S13 chunks and length": b"transfer-encoding: chunked\r\ncontent-length: 2\r\n",
    "S13 two lengths": b"content-length: 2\r\ncontent-length: 3\r\n",
    "S13 a list of lengths": b"content-length: 2, 3\r\n",
    "S13 negative": b"content-length: -1\r\n",
    "S13 plus": b"content-length: +2\r\n",
    "S13 hexadecimal": b"content-length: 0x2\r\n",
    "S13 exponent": b"content-length: 1e3\r\n",
    "S13 enormous": b"content-length: 99999999999999999999999\r\n",
    "S13 no length": b"content-length:\r\n",
    "S13 another coding": b"transfer-encoding: xchunked\r\n",
    "S13 coding last": b"transfer-encoding: chunked, identity\r\n",
    "S13 chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\nx: y\r\n",
    "S13 a space before the colon": b"x-a : b\r\n",
    "S13 folded": b"x-a: b\r\n c\r\n",
    "S13 folded first": b" x-a: b\r\n",
    "S13 bare LF": b"x-a: b\nx-c: d\r\n",
    "S13 no name": b": b\r\n",
    "S13 no colon": b"x-a\r\n",
    "S13 parenthesis": b"x(a): b\r\n",
}
HEADS = [vector(name, ROUTES, _raw(framing), 400) for name, framing in FRAMINGS.items()] + [
    vector("S14 64 KiB in one field", ROUTES, _raw(b"x-a: " + b"a" * 65_536 + b"\r\n"), 431),
    vector(
        "S14 10,000 fields",
        ROUTES,
        _raw(b"".join(b"x-%d: 1\r\n" % number for number in range(10_000))),
        431,
    ),
    vector("S14 64 KiB of URL", ROUTES, lambda r: r.with_query(b"x=" + b"a" * 65_536), 431),
    vector(
        "S14 endless field",
        ROUTES,
        lambda r: replace(r, body=None, framing=b"x-a: " + b"a" * 70_000),
        431,
    ),
]

# -- paths and queries


_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}")


def _id(text: bytes) -> Change:
    return lambda request: replace(request, target=_UUID.sub(text, request.target))


_BAD_IDS = {
    "NUL": b"%00",
    "CR LF": b"%0d%0aset-cookie:%20a=b",
    "a word": b"null",
    "nearly": b"0197a2b0-0000-7000-8000-00000000000",
    "one more": b"0197a2b0-0000-7000-8000-0000000000000",
    "36 others": b"x" * 36,
    "not UTF-8": b"%ff%fe",
    "surrogate": b"%ed%a0%80",
    "other digits": b"%d9%a3" * 36,
    "SQL": b"%27%20or%201=1--",
    "format": b"%25s%7B7*7%7D",
    "space": b"%20",
    "long": b"a" * 30_000,
    "dot": b".%2e",
}
PATHS = [vector(f"S18 {name}", WITH_ID, _id(text), 404, 422) for name, text in _BAD_IDS.items()]

BAD_VALUES: dict[str, dict[str, bytes]] = {
    "limit": {
        "S03 1e9": b"1e9", "A11 a billion": b"1000000000", "S03 5000 digits": b"1" * 5000,
        "S03 2^63": b"9223372036854775808", "zero": b"0", "negative": b"-1", "NaN": b"NaN",
        "fraction": b"1.0", "underscore": b"1_0", "space": b"%201", "other digits": b"%d9%a3",
        "empty": b"", "hex": b"0x10", "S07 NUL": b"1%00", "true": b"true", "plus": b"%2b1",
    },
    "cursor": {
        "word": b"x", "S07 NUL": b"%00", "S09 long": b"A" * 20_000, "not UTF-8": b"%ff",
        "array": b"W10", "object": b"e30", "null": b"bnVsbA", "nested": b"W1tb" * 80,
        "emoji": b"%F0%9F%98%80", "padding": b"====",
    },
    "offset": {
        "word": b"x", "negative": b"-1", "S03 2^63": b"9223372036854775808", "empty": b"",
        "S03 5000 digits": b"1" * 5000, "S03 1e9": b"1e9", "S07 NUL": b"1%00", "fraction": b"1.0",
    },
    "kind": {"word": b"picture", "empty": b"", "list": b"json,text"},
    "action_run_id": {"word": b"x", "S07 NUL": b"%00", "SQL": b"%27--", "empty": b""},
    "automationId": {"word": b"x", "S07 NUL": b"%00", "SQL": b"%27--", "empty": b""},
    "artifact_id": {"word": b"x", "S07 NUL": b"%00", "SQL": b"%27--", "empty": b""},
    "mode": {"word": b"master", "case": b"PRIMARY", "empty": b"", "S07 NUL": b"primary%00"},
    "order": {"word": b"sideways", "SQL": b"asc;drop%20table%20turns", "empty": b""},
    "status": {"word": b"done", "list": b"pending,running", "case": b"PENDING", "empty": b""},
    "concurrencyKey": {"empty": b"", "S07 NUL": b"%00", "S09 long": b"k" * 256},
    "after": {
        "word": b"x", "negative": b"-1-1", "S03 large": b"9" * 400 + b"-1", "S07 NUL": b"1-1%00",
        "S12 line": b"1-1%0a", "other digits": b"%d9%a3-1", "float": b"1.5-1",
    },
}  # fmt: skip


def query_fields(route: Route) -> list[str]:
    assert route.operation is not None
    assert route.operation.query is not None
    return [field.alias or name for name, field in route.operation.query.model_fields.items()]


def _query(name: str, value: bytes) -> Change:
    return lambda request: request.with_query(name.encode() + b"=" + value)


QUERIES = [
    vector(
        f"{kind} {name}",
        [route for route in WITH_QUERY if name in query_fields(route)],
        _query(name, value),
        422,
    )
    for name, values in BAD_VALUES.items()
    for kind, value in values.items()
] + [
    vector(
        f"{name} twice",
        [route for route in WITH_QUERY if name in query_fields(route)],
        lambda r, name=name: r.with_query(f"{name}=1&{name}=2".encode()),  # type: ignore[misc]
        422,
    )
    for name in BAD_VALUES
]

# -- S21 methods


def _without(method: str) -> list[Route]:
    """Routes whose path has no such method."""
    found = {route.path for route in ROUTES if route.method == method}
    # Where `upload` may stand an id may: an artifact of such a name is sought, 422.
    taken = [re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in found]
    return [route for route in ROUTES if not any(one.fullmatch(route.path) for one in taken)]


def _by(method: str) -> Change:
    return lambda request: replace(request, method=method.encode(), body=None)


METHODS = [
    vector(f"S21 {method}", _without(method), _by(method), 405)
    for method in ("PUT", "TRACE", "OPTIONS", "PROPFIND", "DELETE", "PATCH", "POST", "GET")
]

# -- S17 forms


def _form(*parts: bytes, end: bytes = b"--x--\r\n") -> Change:
    data = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end
    return lambda request: request.with_body(data)


def _part(options: bytes, data: bytes = b"y") -> bytes:
    return b"content-disposition: form-data; " + options + b"\r\n\r\n" + data


_JSON = (b"content-type", b"application/json")
_FORM_TYPE = b"multipart/form-data"
_A_FILE = _part(b'name="file"; filename="a"')
_HUGE = b"--x\r\n" + _part(b'name="file"; filename="a"', b"y" * MIB)
FORMS = [
    vector(f"S17 {name}", WITH_FORM, change, status)
    for name, change, status in (
        ("nothing", lambda r: r.with_body(b""), 422),
        ("no form", lambda r: r.with_body(b"y" * 1000), 422),
        ("no file", _form(_part(b"name=title")), 422),
        ("two files", _form(_A_FILE, _A_FILE), 422),
        ("a thousand parts", _form(*[_part(b"name=%d" % n) for n in range(1000)]), 422),
        ("a thousand headers", _form(b"a: b\r\n" * 1000 + _A_FILE), 422),
        ("endless header", _form(b"a: " + b"b" * MIB), 422),
        ("endless header name", _form(b"a" * MIB), 422),
        ("endless field", _form(_part(b"name=title", b"t" * MIB)), 422),
        ("endless preamble", lambda r: r.with_body(b"\r\n" * 100_000), 422),
        ("cut off", _form(_A_FILE, end=b""), 422),
        ("no name", _form(_part(b"filename=a")), 422),
        ("no disposition", _form(b"a: b\r\n\r\ny"), 422),
        ("10 GB announced", _endless_length, 413),
        ("60 MiB", lambda r: r.with_body(b"--x\r\n" + _part(b"name=file", b"y" * 60 * MIB)), 413),
        (
            "60 MiB in chunks",
            lambda r: replace(
                r,
                body=b"%x\r\n%b\r\n" % (len(_HUGE), _HUGE)
                + (b"100000\r\n" + b"y" * MIB + b"\r\n") * 60,
                framing=b"transfer-encoding: chunked\r\n",
            ),
            413,
        ),
        ("gzip", lambda r: r.with_headers((b"content-encoding", b"gzip")), 415),
        ("JSON", lambda r: r.without(b"content-type").with_headers(_JSON), 415),
        ("no type", lambda r: r.without(b"content-type"), 415),
        ("two types", lambda r: r.with_headers(_JSON), 415),
        ("no boundary", lambda r: _typed_form(r, _FORM_TYPE), 415),
        ("long boundary", lambda r: _typed_form(r, _FORM_TYPE + b"; boundary=" + b"x" * 71), 415),
    )
]  # fmt: skip


def _typed_form(request: Request, kind: bytes) -> Request:
    return request.without(b"content-type").with_headers((b"content-type", kind))


# -- S18 file names that no name can be

NAMES = [
    vector(f"S18 {name}", WITH_FORM, _form(_part(b'name="file"; filename="' + value + b'"')), 422)
    for name, value in {
        "NUL": b"a\0.png",
        "not UTF-8": b"\xff\xfe",
        "overlong": b"\xc0\xaf",
        "5 KB": b"n" * 5000,
        "256 characters": b"n" * 256,
    }.items()
]

REFUSED = [
    *FORMS, *NAMES, *SIZES, *BODIES, *TYPES, *FIELDS, *KEYS, *HEADS, *PATHS, *QUERIES, *METHODS,
]  # fmt: skip

# -- what may be said, and must change nothing

OVERRIDES = [
    (b"x-http-method-override", b"DELETE"),
    (b"x-http-method", b"DELETE"),
    (b"x-method-override", b"DELETE"),
]
FORGED = [
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-forwarded-host", b"forged.example"),
    (b"x-forwarded-proto", b"gopher"),
    (b"forwarded", b"for=10.0.0.1;host=forged.example"),
    (b"x-original-url", b"/metrics"),
    (b"x-rewrite-url", b"/metrics"),
    (b"x-tenant-id", b"00000000-0000-0000-0000-000000000000"),
    (b"origin", b"https://forged.example"),
    (b"sec-fetch-site", b"cross-site"),
    (b"referer", b"https://forged.example/"),
]
HOSTS = [
    b"host: forged.example\r\n",
    b"host: forged.example:80@x\r\n",
    b"",
    b"host: a\r\nhost: b\r\n",
    b"host: " + b"h" * 5000 + b"\r\n",
]
ODD_TEXTS = [
    "' or '1'='1' --", "'; drop table turns; --", "$1", "%s%n%x", "{{7*7}}", "${jndi:ldap://x/a}",
    "{0.__class__}", "<script>alert(1)</script>", "../../etc/passwd", "\n\ndata: forged\n\n",
    "\r\nset-cookie: a=b", "\u202egnp.exe", "\ufeff", "\u2028", "a\x1b[2Jb", "\x7f", "😀" * 50,
    "https://evil.example", "=cmd|' /C calc'!A0",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 2**64 - 1, 1.5e308, -0.0, "", " ", [], {}, [[]], {"": ""}, [None],
    "x" * 300_000, ["x"] * 1000, {"__proto__": {"a": 1}}, {"role": "user"}, [{"parts": [{}]}],
    *ODD_TEXTS,
]  # fmt: skip
