"""Every operation of every surface × what is asked of it: a valid request, no credential, somebody
else's thing, an unknown one, something malformed. Made from the surfaces themselves, so that no
operation can be missing.

    python -m tests.security.matrix          counts by surface, and what does not apply where
    python -m tests.security.matrix --all    every cell
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from shared.turn.model import CredentialKind
from tests.security.credentials import CARRIERS, IN_THE_URL, Keys, api_key, bearer, cookie
from tests.security.surfaces import (
    ASKED,
    FRONTS,
    JSON,
    MALFORMED,
    PREFLIGHTS,
    PRIMARY,
    Asked,
    Front,
    Ids,
    Row,
    unknown,
)
from tests.security.vectors import BAD_VALUES, DEPTHS, FORMS, MIB
from tests.security.wire import Headers, Request
from tests.unit.api.test_body import REFUSED as REFUSED_JSON

Kind = Literal[
    "happy", "no credential", "wrong credential", "another surface's", "revoked", "restricted",
    "malformed id", "unknown id", "foreign id", "private id", "malformed body", "wrong values",
    "too large", "wrong type", "unknown path", "wrong method", "bad query",
]  # fmt: skip
KINDS: Final[Mapping[Kind, str]] = {
    "happy": "",
    "no credential": "ask for none",
    "wrong credential": "ask for none",
    "another surface's": "ask for none",
    "revoked": "ask for none",
    "restricted": "cannot be withheld from a good credential",
    "malformed id": "name nothing in their path",
    "unknown id": "name nothing",
    "foreign id": "name nothing",
    "private id": "name nothing that is kept from colleagues",
    "malformed body": "take no body",
    "wrong values": "take no JSON",
    "too large": "take no body",
    "wrong type": "take no body",
    "unknown path": "",
    "wrong method": "",
    "bad query": "take no query",
}
"""Each with the reason why it does not apply to an operation."""
ABOUT_THINGS: Final = ("unknown id", "foreign id", "private id")
"""Asked by `test_foreign.py`, of which the answers must be the same bytes."""


@dataclass(frozen=True, slots=True)
class Try:
    """One request of a cell, and how it must be answered."""

    name: str
    request: Request
    status: int
    is_verdict: bool = False
    """Told as the answer that was asked for, not as an error."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of thing asked of one operation."""

    asked: Asked
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.asked.name}"

    @property
    def applies(self) -> bool:
        asked = self.asked
        match self.kind:
            case "happy" | "unknown path" | "wrong method":
                return True
            case "restricted":
                return needs_more(asked)
            case "malformed id":
                return bool(asked.parameters)
            case "unknown id" | "foreign id":
                return any(asked.names(row) for row in asked.rows())
            case "private id":
                return any(set(asked.names(row)) - asked.front.shared for row in asked.rows())
            case "wrong values":
                return asked.has_body
            case "malformed body" | "too large" | "wrong type":
                return asked.has_body or asked.has_form
            case "bad query":
                return bool(asked.query_fields)
            case _:
                return not asked.is_public

    def tries(self, keys: Keys, ids: Ids) -> Iterator[Try]:
        """What is sent with these keys, naming these things of theirs."""
        yield from _TRIES[self.kind](self.asked, keys, ids)


def needs_more(asked: Asked) -> bool:
    """Whether a credential that is good on its surface may be too little for it."""
    return asked.front.name == "mechamental" or asked.operation.path.startswith("/agent")


# -- credentials


def _valid(asked: Asked, keys: Keys, ids: Ids) -> Request:
    return asked.request(ids, asked.front.credential(keys))


def _without(asked: Asked, _: Keys, ids: Ids) -> Iterator[Try]:
    yield from _refused(asked, ids, {"none": ()})


def _refused(asked: Asked, ids: Ids, credentials: Mapping[str, Headers]) -> Iterator[Try]:
    """401 comes before anything else is looked at."""
    nonsense = dict.fromkeys(ids, "%00")
    for name, credential in credentials.items():
        yield Try(name, asked.request(ids, credential), 401)
        yield Try(f"{name}, nonsense", asked.request(nonsense, credential), 401)
        if asked.has_body:
            broken = asked.request(ids, credential).with_body(b"[" * 100_000)
            yield Try(f"{name}, broken", broken.without(b"content-type"), 401)


def _wrong(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    front = asked.front
    good = keys.of[front.kind]
    prefix = good[: good.rindex("_", 0, 9) + 1]
    wrong = {
        "unknown": prefix + "x" * 43,
        "prefix alone": prefix,
        "truncated": good[:-1],
        "prolonged": good + "A",
        "other letters": good.swapcase(),
        "too long": good + "A" * 513,
        "empty": "",
        "two": f"{good} {good}",
        "SQL": "' or '1'='1' --",
    }
    found = {name: front.carry(secret) for name, secret in wrong.items()}
    found |= {
        "twice": front.carry(good) * 2,
        "no scheme": ((b"authorization", good.encode()),),
        "another scheme": ((b"authorization", b"Token " + good.encode()),),
        "wrong bearer, good key": bearer(prefix + "x") + api_key(good),
        "cookie": cookie(good),
        "session": bearer(keys.session),
        "forwarded": ((b"x-forwarded-user", b"admin"), (b"x-user-id", b"1")),
    }
    if front.name != PRIMARY:
        found["who is signed in"] = cookie(keys.session)
        if front.carry is not api_key:
            found["in another header"] = api_key(good)
    yield from _refused(asked, ids, found)
    for name in IN_THE_URL:
        query = f"{name}={good}".encode()
        yield Try(f"in the URL as {name}", asked.request(ids, ()).with_query(query), 401)


def _foreign_kinds(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    others = {kind: secret for kind, secret in keys.of.items() if kind not in asked.front.takes}
    carried = {
        f"{kind} as {carrier}": carry(secret)
        for kind, secret in others.items()
        for carrier, carry in CARRIERS.items()
    }
    if CredentialKind.API_KEY in others:
        carried["provider's token"] = bearer(keys.jwt)
    yield from _refused(asked, ids, carried)


def _revoked(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    front = asked.front
    yield from _refused(
        asked,
        ids,
        {kind: front.carry(keys.revoked_of[kind]) for kind in sorted(front.takes)},
    )


def _restricted(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    if asked.front.name == "kodey":
        publishable = keys.of[CredentialKind.KODEY_PUBLISHABLE]
        held = {"publishable": publishable}
    else:
        held = dict(keys.held)
    for lacking, secret in held.items():
        request = asked.request(ids, asked.front.carry(secret))
        yield Try(lacking or "permission", request, 403)
        if asked.has_body:
            yield Try(f"{lacking}, broken body", request.with_body(b"["), 403)


# -- names, paths and methods


def _malformed_ids(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    for name in asked.parameters:
        for text in MALFORMED:
            status = asked.front.malformed.get(name, {}).get(text, 404)
            if text == "%00" and f"{{{name}}}" in str(asked.row.body):
                status = asked.front.invalid  # no text of a body may hold one
            makes_it = 201 in asked.row.absent and name == "thread_id"
            is_name = name in _SCOPES or makes_it
            if status != 404 or not is_name:
                yield Try(f"{name} {text}", _valid(asked, keys, {**ids, name: text}), status)


_SCOPES: Final = {"workspace_id", "app_id", "namespace_id"}
"""Named as anybody likes: where nothing is yet, something may come to be."""


def _unknown_paths(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request = _valid(asked, keys, ids)
    path = request.target.partition(b"?")[0]
    (prefix,) = (p for p in asked.front.prefixes if asked.operation.path.startswith(p))
    for name, target in {
        "below": path + b"/x/y/z",
        "with a slash": path + b"/",
        "beside": f"{prefix}/no/such/path".encode(),
    }.items():
        yield Try(name, replace(request, target=target), 404)


_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


SERVED: Final = [name.split(" ") for name in sorted({asked.name for asked in ASKED} | PREFLIGHTS)]
"""Method and path of each."""


def _known_at(path: str) -> set[str]:
    """Methods that lead somewhere; where one path has a name, another may have an id."""
    return {
        method
        for method, pattern in SERVED
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path)
    }


def _wrong_methods(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request = _valid(asked, keys, ids)
    known = _known_at(request.target.partition(b"?")[0].decode())
    for method in _METHODS:
        if method not in known:
            wrong = replace(request, method=method.encode(), body=None)
            yield Try(method, wrong, 405)
            yield Try(f"{method} of nobody", replace(wrong, headers=()), 405)


# -- bodies and queries


def _is_verdict(asked: Asked) -> bool:
    return asked.operation.operation_id == "zylon_validate_chat"


def _malformed_bodies(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request, status = _valid(asked, keys, ids), asked.front.invalid
    if asked.has_form:
        for vector in FORMS:
            if vector.statuses == {422}:
                yield Try(vector.name, vector.change(request), status)
        return
    bodies = REFUSED_JSON | DEPTHS | {"list": b"[]", "text": b'"x"', "gzip": gzip.compress(b"{}")}
    for name, data in bodies.items():
        if name != "nothing":
            yield Try(name, request.with_body(data), status, _is_verdict(asked))


def _wrong_values(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request = _valid(asked, keys, ids)
    assert asked.row.wrong, f"{asked.name}: which values are wrong?"
    for name, value in asked.row.wrong.items():
        body = orjson.loads(request.body or b"{}") | {name: value}
        wrong = request.with_body(orjson.dumps(body))
        yield Try(f"{name}={value}", wrong, asked.front.invalid, _is_verdict(asked))


def _too_large(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request = _valid(asked, keys, ids)
    announced = replace(request, body=None, framing=b"content-length: 10000000000\r\n")
    yield Try("announced", announced, 413)
    if asked.has_body:
        yield Try("sent", request.with_body(b" " * (MIB + 1)), 413)
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        chunks = replace(request, body=chunk * 17, framing=b"transfer-encoding: chunked\r\n")
        yield Try("in chunks", chunks, 413)


def _wrong_types(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request = _valid(asked, keys, ids)
    bare = request.without(b"content-type")
    form = (b"content-type", b"multipart/form-data; boundary=x")
    mine, other = (form, JSON) if asked.has_form else (JSON, form)
    for name, headers in {
        "none": (),
        "text": ((b"content-type", b"text/plain"),),
        "the other": (other,),
        "two": (mine, other),
        "compressed": (mine, (b"content-encoding", b"gzip")),
        "another charset": ((b"content-type", b"application/json; charset=utf-16"),),
    }.items():
        yield Try(name, bare.with_headers(*headers).with_body(request.body or b"{}"), 415)


def _bad_queries(asked: Asked, keys: Keys, ids: Ids) -> Iterator[Try]:
    request, status = _valid(asked, keys, ids), asked.front.invalid
    path = replace(request, target=request.target.partition(b"?")[0])
    for name in asked.query_fields:
        # What a valid request must ask for is left as it is, unless it is what is wrong.
        rest = [pair for pair in request.target.partition(b"?")[2].split(b"&") if pair]
        base = path
        for pair in rest:
            if not pair.startswith(name.encode() + b"="):
                base = base.with_query(pair)
        yield Try(f"{name} twice", base.with_query(f"{name}=1&{name}=2".encode()), status)
        yield Try(f"{name} NUL", base.with_query(f"{name}=1%00".encode()), status)
        for what, value in _bad_values(asked.front, name).items():
            is_item = (asked.front.name, name) == ("responses", "after")
            wrong = base.with_query(name.encode() + b"=" + value)
            yield Try(f"{name} {what}", wrong, 404 if is_item else status)


_INSTANT: Final = {"word": b"x", "empty": b"", "month": b"2026-13-01"}
_COUNT: Final = BAD_VALUES["limit"]
_WORDS: Final = {"word": b"sideways", "empty": b"", "list": b"a,b"}
_OF_OTHERS: Final[Mapping[str, Mapping[str, Mapping[str, bytes]]]] = {
    "mechamental": {
        "ascending": _WORDS,
        "limit": _COUNT,
        "cursor": BAD_VALUES["cursor"],
        "timestamp": _INSTANT,
    },
    "kodey": {"userId": {}, "agentType": {}},
    "zylon": {
        **dict.fromkeys(("page_size", "first", "last"), _COUNT),
        "page": {**_COUNT, "A11 a billion": b"1" * 19},  # a billion is behind the last: no rows
        "page_order": {**_WORDS, "case": b"asc"},
        **dict.fromkeys(("after", "before"), BAD_VALUES["cursor"]),
        "total_count": _WORDS,
        "state": {**_WORDS, "case": b"active"},
        "include": {**_WORDS, "case": b"user"},
    },
    "responses": {
        "stream": _WORDS,
        "starting_after": BAD_VALUES["offset"],
        "after": {"word": b"x", "empty": b"", "nobody's": b"msg_" + b"0" * 32},
        "limit": _COUNT,
        "order": {**_WORDS, "case": b"ASC"},
    },
}


def _bad_values(front: Front, name: str) -> Mapping[str, bytes]:
    of_front: Mapping[str, Mapping[str, bytes]] = _OF_OTHERS.get(front.name, _OF_PRIMARY)
    assert name in of_front, f"{front.name}: which values of {name} are bad?"
    return of_front[name]


_UUID: Final = BAD_VALUES["automationId"]
_OF_PRIMARY: Final[Mapping[str, Mapping[str, bytes]]] = {
    **BAD_VALUES,
    **dict.fromkeys(("threadId", "turnId", "messageId"), _UUID),
    "rating": _WORDS,
    "createdAfter": _INSTANT,
    "createdBefore": _INSTANT,
}


_TRIES: Final[Mapping[Kind, Callable[[Asked, Keys, Ids], Iterator[Try]]]] = {
    "no credential": _without,
    "wrong credential": _wrong,
    "another surface's": _foreign_kinds,
    "revoked": _revoked,
    "restricted": _restricted,
    "malformed id": _malformed_ids,
    "unknown path": _unknown_paths,
    "wrong method": _wrong_methods,
    "malformed body": _malformed_bodies,
    "wrong values": _wrong_values,
    "too large": _too_large,
    "wrong type": _wrong_types,
    "bad query": _bad_queries,
}


# -- somebody's things


@dataclass(frozen=True, slots=True)
class Named:
    """A request that names somebody else's things, beside one that names nothing's."""

    row: Row
    names: tuple[str, ...]
    foreign: Ids
    absent: Ids


def named(asked: Asked, own: Ids, theirs: Ids, spared: frozenset[str] = frozenset()) -> list[Named]:
    """Each thing by itself, among one's own, and all at once; `spared` may be used by both."""
    found = []
    for row in asked.rows():
        names = [name for name in asked.names(row) if name not in spared]
        # Others are the same for both, such as the organization of colleagues.
        names = [name for name in names if own[name] != theirs[name]]
        groups = dict.fromkeys([*((name,) for name in names), tuple(names)] if names else [])
        for group in groups:
            foreign = {name: theirs[name] for name in group}
            nothing = {name: unknown(asked.front, name) for name in group}
            found.append(Named(row, group, {**own, **foreign}, {**own, **nothing}))
    return found


# -- the whole of it

CELLS: Final = [Cell(asked, kind) for kind in KINDS for asked in ASKED]
APPLYING: Final = [cell for cell in CELLS if cell.applies]


def summary(*, every: bool = False) -> str:
    """Counts by kind and surface, and why a kind does not apply to the rest."""
    names = [front.name for front in FRONTS]
    counted = [sum(asked.front.name == name for asked in ASKED) for name in names]
    lines = [
        f"{len(ASKED)} operations, {len(APPLYING)} cells",
        _line("", names, ""),
        _line("operations", counted, ""),
    ]
    for kind, reason in KINDS.items():
        cells = [cell for cell in APPLYING if cell.kind == kind]
        counts = [sum(cell.asked.front.name == name for cell in cells) for name in names]
        others = len(ASKED) - len(cells)
        lines.append(_line(kind, counts, f"{others} {reason}" if others else ""))
        if every:
            lines += [f"    {cell.asked.front.name:13}{cell.asked.name}" for cell in cells]
    return "\n".join(lines)


def _line(name: str, values: list[Any], rest: str) -> str:
    return f"{name:20}{''.join(f'{value!s:>13}' for value in values)}  {rest}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.security.matrix")
    parser.add_argument("--all", action="store_true", help="every cell")
    print(summary(every=parser.parse_args().all))


if __name__ == "__main__":
    main()
