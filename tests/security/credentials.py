"""Every kind of credential, right and wrong, and what the API answers to it.

`CARRIERS` must name each security scheme of the API's own document, and `PREFIXES` each prefix of a
secret in its source: a new kind without a row here fails the build.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from tests.security.wire import Headers

PREFIXES = {"vai_sk_": "API key"}

NOT_YET = {
    "A04": "no publishable keys: every key of a user may do all that the user may",
    "A05": "no kind of key is forbidden in a browser; Origin means nothing (test_input.py)",
    "A06": "no test keys",
    "A07": "no JWT is read: one is an unknown secret (below)",
    "A08": "the same",
    "A12": "no roles, and no routes for administrators or workers",
    "A14": "no cookies: one is no credential (below), so no other site can act for anybody",
    "A15": "no CORS headers on any answer (test_input.py)",
    "A17": "no sessions",
}
"""Vectors of the checklist that nothing can be tried on. What they wait for would be noticed here:
a cookie or a JWT that is taken, a scheme or a prefix without a row."""

_UNSIGNED_JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImV4cCI6OTk5OTk5OTk5OX0."

CARRIERS: dict[str, Callable[[str], Headers]] = {
    "bearer": lambda secret: ((b"authorization", b"Bearer " + secret.encode("latin-1")),),
    "apiKey": lambda secret: ((b"x-api-key", secret.encode("latin-1")),),
}
bearer = CARRIERS["bearer"]
api_key = CARRIERS["apiKey"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets of one user: one that is good, and some that no longer are."""

    good: str
    revoked: str
    expired: str


WRONG_SECRETS: dict[str, Callable[[Keys], str]] = {
    "unknown": lambda _: "vai_sk_" + secrets.token_urlsafe(32),
    "truncated": lambda keys: keys.good[:-1],
    "prolonged": lambda keys: keys.good + "A",
    "wrong case": lambda keys: keys.good.swapcase(),
    "prefix alone": lambda _: "vai_sk_",
    "revoked": lambda keys: keys.revoked,
    "expired": lambda keys: keys.expired,
    "empty": lambda _: "",
    "too long": lambda keys: keys.good + "A" * 513,
    "two words": lambda keys: f"{keys.good} {keys.good}",
    "two in a list": lambda keys: f"{keys.good}, {keys.good}",
    "not ASCII": lambda keys: keys.good + "\xff",
    "wildcard": lambda keys: keys.good[:12] + "%",
    "unsigned JWT": lambda _: _UNSIGNED_JWT,
    "SQL": lambda _: "' or '1'='1' --",
}

REFUSED: dict[str, Callable[[Keys], Headers]] = {
    "none": lambda _: (),
    "scheme alone": lambda _: ((b"authorization", b"Bearer"),),
    "no scheme": lambda keys: ((b"authorization", keys.good.encode()),),
    "another scheme": lambda keys: ((b"authorization", b"Token " + keys.good.encode()),),
    "basic": lambda keys: (
        (b"authorization", b"Basic " + base64.b64encode(f"{keys.good}:".encode())),
    ),
    "twice": lambda keys: bearer(keys.good) * 2,
    "twice as X-API-Key": lambda keys: api_key(keys.good) * 2,
    "wrong bearer, right X-API-Key": lambda keys: bearer("vai_sk_wrong") + api_key(keys.good),
    "empty bearer, right X-API-Key": lambda keys: ((b"authorization", b""), *api_key(keys.good)),
    "cookie": lambda keys: ((b"cookie", b"vai_token=" + keys.good.encode()),),
    "underscores": lambda keys: ((b"x_api_key", keys.good.encode()),),
    "proxy's header": lambda keys: ((b"proxy-authorization", b"Bearer " + keys.good.encode()),),
    "forwarded identity": lambda _: ((b"x-forwarded-user", b"admin"), (b"x-user-id", b"1")),
    **{
        f"{name} as {carrier}": (
            lambda keys, make=make, carry=carry: carry(make(keys))  # type: ignore[misc]
        )
        for carrier, carry in CARRIERS.items()
        for name, make in WRONG_SECRETS.items()
    },
}
"""Each is answered 401, with one and the same body."""

ACCEPTED: dict[str, Callable[[Keys], Headers]] = {
    "bearer": lambda keys: bearer(keys.good),
    "bearer in other letters": lambda keys: ((b"authorization", b"bEARER  " + keys.good.encode()),),
    "X-API-Key": lambda keys: api_key(keys.good),
    "right bearer, wrong X-API-Key": lambda keys: bearer(keys.good) + api_key("wrong"),
}
"""Authorization decides where both are sent."""

IN_THE_URL = ("token", "access_token", "api_key", "apiKey", "key", "authorization", "x-api-key")
"""Query parameters that must never carry a credential: addresses are logged everywhere."""
