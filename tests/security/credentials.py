"""Every kind of credential, right and wrong, and what the API answers to it.

`CARRIERS` must name each security scheme of the API's own document, and `PREFIXES` each prefix of a
secret in its source: a new kind without a row here fails the build.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.turn.model import CredentialKind
from tests.fixtures.provider import Issuer
from tests.security.wire import Headers

PREFIXES = {
    "vai_sk_": "API key",
    "vai_pat_": "personal token",
    "vai_ses_": "session",
    "vai_token": "the cookie's name",
}

NOT_YET = {
    "A05": "no kind of key is forbidden in a browser; Origin means nothing (test_input.py)",
    "A06": "no test keys",
    "A12": "no roles, and no routes for administrators or workers",
}
"""Vectors of the checklist that nothing can be tried on. What they wait for would be noticed here:
a scheme or a prefix without a row."""

CARRIERS: dict[str, Callable[[str], Headers]] = {
    "bearer": lambda secret: ((b"authorization", b"Bearer " + secret.encode("latin-1")),),
    "apiKey": lambda secret: ((b"x-api-key", secret.encode("latin-1")),),
    "cookie": lambda secret: (
        (b"cookie", b"vai_token=" + secret.encode("latin-1")),
        (b"sec-fetch-site", b"same-origin"),
    ),
}
bearer = CARRIERS["bearer"]
api_key = CARRIERS["apiKey"]
cookie = CARRIERS["cookie"]


@dataclass(frozen=True)
class Keys:
    """Secrets of one user: one that is good, and some that no longer are."""

    good: str
    revoked: str
    expired: str
    token: str
    revoked_token: str
    expired_token: str
    session: str
    revoked_session: str
    expired_session: str
    jwt: str
    bad_jwts: Mapping[str, str]
    """Those that would be this user's, were they not wrong."""
    tenant_id: str
    of: Mapping[CredentialKind, str]
    """Good ones of each kind that operators and users make."""
    revoked_of: Mapping[CredentialKind, str]
    held: Mapping[str, str]
    """MechaMental's, by the permission that each lacks."""

    @property
    def secrets(self) -> list[bytes]:
        """What no log and no answer may hold."""
        values = [
            value
            for name, value in vars(self).items()
            if isinstance(value, str) and name != "tenant_id"
        ]
        for more in (self.bad_jwts, self.of, self.revoked_of, self.held):
            values += more.values()
        return [value.encode() for value in values if len(value) > 30]


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
    "revoked token": lambda keys: keys.revoked_token,
    "expired token": lambda keys: keys.expired_token,
    "revoked session": lambda keys: keys.revoked_session,
    "expired session": lambda keys: keys.expired_session,
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
    "API key as cookie": lambda keys: cookie(keys.good),
    "personal token as cookie": lambda keys: cookie(keys.token),
    "JWT as cookie": lambda keys: cookie(keys.jwt),
    "session as bearer": lambda keys: bearer(keys.session),
    "session as X-API-Key": lambda keys: api_key(keys.session),
    "hashed like a session": lambda keys: bearer(f"session:{keys.session}"),
    "hashed like a session, as X-API-Key": lambda keys: api_key(f"session:{keys.session}"),
    "cookie twice": lambda keys: cookie(f"{keys.session}; vai_token={keys.session}"),
    "cookie of another name": lambda keys: ((b"cookie", b"token=" + keys.session.encode()),),
    "wrong bearer, right cookie": lambda keys: bearer("vai_sk_wrong") + cookie(keys.session),
    "wrong X-API-Key, right cookie": lambda keys: api_key("vai_sk_wrong") + cookie(keys.session),
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
    **{
        f"JWT, {name}": (lambda keys, name=name: bearer(keys.bad_jwts[name]))  # type: ignore[misc]
        for name in Issuer().bad_tokens()
    },
}
"""Each is answered 401, with one and the same body."""

ACCEPTED: dict[str, Callable[[Keys], Headers]] = {
    "bearer": lambda keys: bearer(keys.good),
    "bearer in other letters": lambda keys: ((b"authorization", b"bEARER  " + keys.good.encode()),),
    "X-API-Key": lambda keys: api_key(keys.good),
    "right bearer, wrong X-API-Key": lambda keys: bearer(keys.good) + api_key("wrong"),
    "right X-API-Key, wrong cookie": lambda keys: api_key(keys.good) + cookie("vai_ses_wrong"),
    "pat": lambda keys: bearer(keys.token),
    "jwt": lambda keys: bearer(keys.jwt),
    "cookie": lambda keys: cookie(keys.session),
}
"""Authorization decides where several are sent, then X-API-Key."""

IN_THE_URL = ("token", "access_token", "api_key", "apiKey", "key", "authorization", "x-api-key")
"""Query parameters that must never carry a credential: addresses are logged everywhere."""
