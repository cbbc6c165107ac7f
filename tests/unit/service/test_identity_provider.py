"""Tokens of an identity provider: RELIABILITY A07 and A08, and the keys they are checked with."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.errors import IdentityProviderUnavailable, NotAuthenticated
from shared.service import provider_keys
from shared.service.identity import Identity
from shared.service.identity_provider import IdentityProvider
from shared.service.provider_keys import ProviderKeys, parse_keys
from shared.settings import Settings
from tests.fixtures.provider import AUDIENCE, ISSUER, Issuer, encode, to_jwk

ISSUED = Issuer()
BAD = ISSUED.bad_tokens()
ELLIPTIC = to_jwk(ec.generate_private_key(ec.SECP256R1()), "e")
EDWARDS = to_jwk(ed25519.Ed25519PrivateKey.generate(), "d")
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from(["typ", "kid", "crit", "b64", "cty", "jwk"]), ANYTHING)
CLAIMS = st.dictionaries(
    st.sampled_from(
        ["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "email", "email_verified", "name", "org"]
    ),
    ANYTHING,
)


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgresql://x", "redis_url": "redis://x", "key_pepper": "p" * 16,
            "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_file": "/none",
            "jwt_tenant": "acme",
        } | changes
    )  # fmt: skip


class Published:
    """A key set that can change, fail, and count who asks."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.data


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def provider(**changes: Any) -> IdentityProvider:
    return IdentityProvider(settings(**changes), ProviderKeys(Published(ISSUED.key_set())))


async def test_a_good_token() -> None:
    now = int(time.time())
    token = ISSUED.token(
        exp=now + 60, email="ann@acme.example", email_verified=True, name="Ann",
        aud=["x", AUDIENCE],
    )  # fmt: skip
    who = await provider().verify(token)
    assert (who.tenant, who.subject, who.email, who.name) == (
        "acme", "ann", "ann@acme.example", "Ann",
    )  # fmt: skip
    assert who.expires_at == now + 120


async def test_clocks_may_differ_by_a_minute() -> None:
    now = int(time.time())
    await provider().verify(ISSUED.token(exp=now - 50))
    await provider().verify(ISSUED.token(nbf=now + 50))


@pytest.mark.parametrize("name", sorted(BAD))
async def test_a_bad_token(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        await provider().verify(BAD[name])


@hypothesis_settings(max_examples=50)
@given(st.builds(dict.__or__, HEADERS, st.fixed_dictionaries({"alg": st.just("RS256") | ANYTHING})))
@example({"alg": []})
@example({"alg": {}})
@example({"alg": "RS256", "typ": [[[]]]})
def test_no_header_is_more_than_refused(header: dict[str, Any]) -> None:
    """Nobody has signed it: the caller may write there what they like."""
    unsigned = f"{encode(header)}.{encode(ISSUED.claims())}.x"
    with pytest.raises(NotAuthenticated):
        asyncio.run(provider().verify(unsigned))


@hypothesis_settings(max_examples=50)
@given(HEADERS, CLAIMS)
@example({}, {"exp": 10**400})
@example({}, {"exp": -(10**400)})
@example({}, {"exp": float("nan")})
@example({}, {"exp": float("inf")})
@example({}, {"exp": True})
def test_whatever_was_signed_is_a_verdict(header: dict[str, Any], changes: dict[str, Any]) -> None:
    token = ISSUED.sign({"alg": "RS256", "kid": "k1"} | header, ISSUED.claims() | changes)
    try:
        who = asyncio.run(provider().verify(token))
    except NotAuthenticated:
        return
    assert isinstance(who, Identity)
    assert who.expires_at <= time.time() + 86_400 + 120
    for text in (who.subject, who.email, who.name):
        assert text is None or (text.isprintable() and 0 < len(text) <= 255)


async def test_the_tenant_by_a_claim() -> None:
    by_claim = provider(jwt_tenant=None, jwt_tenant_claim="org")
    assert (await by_claim.verify(ISSUED.token(org="blue"))).tenant == "blue"
    for wrong in (None, 1, ["blue"], "", "a\0", "x" * 256):
        with pytest.raises(NotAuthenticated):
            await by_claim.verify(ISSUED.token(org=wrong))


async def test_an_algorithm_that_is_not_wanted() -> None:
    with pytest.raises(NotAuthenticated):
        await provider(jwt_algorithms=["EdDSA"]).verify(ISSUED.token())


@pytest.mark.parametrize("kind", ["ES256", "EdDSA"])
async def test_other_kinds_of_keys(kind: str) -> None:
    private: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ES256"
        else ed25519.Ed25519PrivateKey.generate()
    )
    algorithm = jwt.get_algorithm_by_name(kind)
    jwk = {**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": "e"}
    keys = ProviderKeys(Published(json.dumps({"keys": [jwk]}).encode()))
    token = jwt.encode(ISSUED.claims(), private, kind, headers={"kid": "e"})
    who = await IdentityProvider(settings(), keys).verify(token)
    assert who.subject == "ann"
    nameless = jwt.encode(ISSUED.claims(), private, kind)
    assert (await IdentityProvider(settings(), keys).verify(nameless)).subject == "ann"


def test_only_strong_public_keys_for_signatures_are_taken() -> None:
    good = to_jwk(ISSUED.private, "good")
    weak = to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "weak")  # noqa: S505
    algorithm = jwt.get_algorithm_by_name("RS256")
    private = algorithm.to_jwk(ISSUED.private, as_dict=True)
    other_curve = to_jwk(ec.generate_private_key(ec.SECP384R1()), "p384")
    entries = [
        good, weak, private, other_curve, {"kty": "oct", "k": "c2VjcmV0", "kid": "o"},
        {**good, "kid": "enc", "use": "enc"}, {**good, "kid": "alg", "alg": "ES256"},
        {**good, "kid": ["l"]}, {**good, "kid": "op", "key_ops": ["sign"]},
        {"kty": "RSA", "kid": "broken"}, {}, "text", None,
    ]  # fmt: skip
    found = parse_keys(json.dumps({"keys": entries}).encode())
    assert [(key.id, key.algorithm) for key in found] == [("good", "RS256")]
    for wrong in (b"", b"[]", b"{}", b'{"keys": 1}', b" " * (provider_keys.MAX_BYTES + 1)):
        with pytest.raises(ValueError):  # noqa: PT011 - any of its kinds
            parse_keys(wrong)


@hypothesis_settings(max_examples=50)
@given(
    st.sampled_from(["kty", "kid", "use", "key_ops", "alg", "crv", "n", "e", "x", "y"]),
    ANYTHING,
)
@example("key_ops", None)
@example("key_ops", 1)
@example("alg", [])
@example("kty", {})
def test_an_odd_entry_is_left_out_and_the_others_stay(name: str, value: Any) -> None:
    good = to_jwk(ISSUED.private, "good")
    entries = [{**jwk, name: value} for jwk in (good, ELLIPTIC, EDWARDS)]
    found = parse_keys(json.dumps({"keys": [*entries, good]}).encode())
    assert found[-1].id == "good"
    assert {known.algorithm for known in found} <= {"RS256", "ES256", "EdDSA"}


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\r\n", b"not HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"HTTP/1.1 200 " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n",
        b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 no\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
    ],
)  # fmt: skip
async def test_whatever_a_server_says_the_old_keys_go_on(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fetch = provider_keys.source_of(
            settings(jwt_jwks_file=None, jwt_jwks_url=f"http://127.0.0.1:{port}/")
        )
        await check_that_the_old_keys_go_on(fetch)


@pytest.mark.parametrize("error", [OSError, ValueError, TimeoutError, RuntimeError])
async def test_no_error_of_a_reading_is_its_last(error: type[Exception]) -> None:
    async def fail() -> bytes:
        raise error

    await check_that_the_old_keys_go_on(fail)


async def check_that_the_old_keys_go_on(broken: provider_keys.Source) -> None:
    clock, good = Clock(), ISSUED.key_set()
    sources: list[provider_keys.Source] = [Published(good), broken, Published(good)]
    read: list[int] = []

    async def source() -> bytes:
        read.append(len(read))
        return await sources[read[-1]]()

    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    keys = ProviderKeys(source, clock)
    assert await keys.find("RS256", "k1") is not None
    for number in (2, 3):
        clock.now += provider_keys.LEARN_EVERY_S
        assert await keys.find("RS256", "unknown") is None
        assert len(read) == number
        assert await keys.find("RS256", "k1") is not None
    gc.collect()
    assert not lost, "no task fails unseen"


async def test_a_new_key_is_learnt_and_invented_ones_ask_nobody() -> None:
    clock, published = Clock(), Published(ISSUED.key_set())
    keys = ProviderKeys(published, clock)
    assert await keys.find("RS256", "k1") is not None
    for number in range(100):
        assert await keys.find("RS256", f"invented {number}") is None
    assert published.asked == 1
    published.data = json.dumps({"keys": [to_jwk(ISSUED.private, "k2")]}).encode()
    clock.now += provider_keys.LEARN_EVERY_S
    assert await keys.find("RS256", "k2") is not None
    assert await keys.find("RS256", "k1") is None, "it is published no more"
    assert published.asked == 2
    assert await keys.find("ES256", "k2") is None, "a key is for one algorithm"


async def test_keys_that_cannot_be_read_again_serve_for_a_day() -> None:
    clock, published = Clock(), Published(ISSUED.key_set())
    keys = ProviderKeys(published, clock)
    published.error = OSError("away")
    with pytest.raises(IdentityProviderUnavailable):
        await keys.find("RS256", "k1")
    with pytest.raises(IdentityProviderUnavailable):
        await keys.find("RS256", "k1")
    assert published.asked == 1
    published.error, clock.now = None, clock.now + provider_keys.LEARN_EVERY_S
    assert await keys.find("RS256", "k1") is not None
    published.error = ValueError("broken")
    clock.now += provider_keys.REFRESH_AFTER_S
    assert await keys.find("RS256", "k1") is not None
    await asyncio.sleep(0.01)
    assert published.asked == 3, "in the background"
    clock.now += provider_keys.TOO_OLD_S
    with pytest.raises(IdentityProviderUnavailable):
        await keys.find("RS256", "k1")
    await keys.close()


@pytest.mark.parametrize(
    "change",
    [
        {"jwt_audience": None}, {"jwt_jwks_file": None}, {"jwt_jwks_url": "https://x/keys"},
        {"jwt_tenant": None}, {"jwt_tenant_claim": "org"},
        {"jwt_jwks_file": None, "jwt_jwks_url": "http://issuer.example/keys"},
        {"jwt_jwks_file": None, "jwt_jwks_url": "file:///etc/passwd"},
        {"jwt_jwks_file": None, "jwt_jwks_url": "http://localhost.evil.example/"},
        {"jwt_algorithms": ["HS256"]}, {"jwt_algorithms": ["none"]}, {"jwt_algorithms": []},
    ],
    ids=str,
)  # fmt: skip
def test_half_a_configuration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JWT|jwt_algorithms"):
        settings(**change)


def test_keys_of_this_machine_may_come_without_tls() -> None:
    settings(jwt_jwks_file=None, jwt_jwks_url="http://127.0.0.1:8080/keys")
