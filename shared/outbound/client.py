"""HTTP to addresses that tenants choose. Imported by workers only: it loads httpcore and anyio.

It stands on httpcore and not on httpx, because httpcore does none of what must not happen here:
no redirects, cookies, decompression, proxies from the environment, or second reading of the URL.
Every connection serves one request, so that every request is checked anew.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import httpcore

from shared.outbound.configuration import outbound_rules
from shared.outbound.errors import (
    BadAnswer,
    RedirectRefused,
    RequestRefused,
    TimedOut,
    Unreachable,
    UrlRefused,
)
from shared.outbound.network import GuardedNetwork, ProxyNetwork, Resolver, SystemResolver
from shared.outbound.url_rules import OutboundRules, OutboundUrl
from shared.settings import Settings

TOTAL_TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 65_536
BODY_BYTES_CAP: Final = 1_048_576
MAX_REDIRECTS: Final = 3
MAX_CONNECTIONS: Final = 100
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16_384

_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CLASSES: Final = {2: "success", 3: "redirect", 4: "client error", 5: "server error"}
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
OURS_TO_SET: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "forwarded", "host",
     "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via"}
)  # fmt: skip
_SENT_TO_ANOTHER_ORIGIN: Final = frozenset({"accept", "accept-language", "user-agent"})


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """An answer. Of a webhook's answer a tenant may see `summary` and nothing else.

    `body` is as sent: never decompressed, `content-encoding` says how it is packed. It is cut at
    the limit when `is_truncated`. Header names are lower-case; of several equal ones the last.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_truncated: bool
    url: str

    @property
    def summary(self) -> str:
        """Status code and class, such as `503 server error`."""
        return f"{self.status} {_CLASSES.get(self.status // 100, 'unknown')}"


class OutboundStream:
    """An answer whose body is still on its way. Whoever has it closes it.

    Header names are lower-case; the body is as sent, never decompressed.
    """

    def __init__(self, response: httpcore.Response, max_body_bytes: int) -> None:
        self.status = response.status
        self.headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in response.headers
        ]
        self._response = response
        self._max_body_bytes = max_body_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, once.

        Raises:
            BadAnswer: the connection was lost, or the body has more than its limit.
        """
        size = 0
        with _told_as_ours():
            async for chunk in self._response.aiter_stream():
                size += len(chunk)
                if size > self._max_body_bytes:
                    raise BadAnswer(f"more than {self._max_body_bytes} bytes")
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request on the way, and how many redirects may still follow it."""

    method: str
    url: OutboundUrl
    headers: dict[str, str]
    content: bytes
    redirects_left: int


class GuardedClient:
    """`async with GuardedClient(...) as client`: one for a process, for any number of requests.

    `proxy_url` is the operator's `http(s)://user:password@host:port`; names are then resolved and
    filtered by the proxy, while the rules on URLs and literal addresses hold here as before.
    """

    def __init__(
        self,
        rules: OutboundRules | None = None,
        *,
        proxy_url: str | None = None,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules or OutboundRules()
        self._system_resolver = SystemResolver()
        guarded = GuardedNetwork(self._rules, resolver or self._system_resolver)
        context = ssl_context or httpcore.default_ssl_context()
        if proxy_url is None:
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=0,
                network_backend=guarded,
            )
        else:
            self._pool = _proxy_pool(proxy_url, context)

    @classmethod
    def from_settings(cls, settings: Settings, rules: OutboundRules | None = None) -> Self:
        """The client of this deployment, under its rules unless others are given."""
        proxy = settings.outbound_proxy_url
        proxy_url = proxy.get_secret_value() if proxy else None
        return cls(rules or outbound_rules(settings), proxy_url=proxy_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._pool.aclose()
        self._system_resolver.close()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        follow_redirects: int = 0,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> OutboundResponse:
        """Sends one request and reads its answer, redirects included, in `total_timeout_s`.

        With `follow_redirects` 0 a redirect is an answer like others. Otherwise each step is
        checked like the first; one to another origin (scheme, host, port) is made without the
        caller's headers, and not at all if it had to repeat the body.

        Raises:
            OutboundFailed: one of its classes; the message may be shown to the tenant.
            ValueError: `follow_redirects` or `max_body_bytes` beyond its limit.
        """
        if not 0 <= follow_redirects <= MAX_REDIRECTS:
            raise ValueError(f"follow_redirects is 0 to {MAX_REDIRECTS}")
        if not 0 <= max_body_bytes <= BODY_BYTES_CAP:
            raise ValueError(f"max_body_bytes is 0 to {BODY_BYTES_CAP}")
        hop = _Hop(
            _checked_method(method),
            self._rules.parse_url(url),
            _checked_headers(headers or {}),
            content,
            follow_redirects,
        )
        try:
            async with asyncio.timeout(total_timeout_s):
                while True:
                    response = await self._send(hop, max_body_bytes)
                    following = self._next_hop(hop, response) if follow_redirects else None
                    if following is None:
                        return response
                    hop = following
        except TimeoutError:
            raise TimedOut from None

    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> OutboundStream:
        """Sends one request and returns when its answer begins; a redirect is an answer too.

        The caller bounds the time, of this and of reading.

        Raises:
            OutboundFailed: as `request` does.
        """
        checked = _checked_headers(headers or {})
        hop = _Hop(_checked_method(method), self._rules.parse_url(url), checked, content, 0)
        with _told_as_ours():
            response = await self._pool.handle_async_request(_wire_request(hop))
        return OutboundStream(response, max_body_bytes)

    async def _send(self, hop: _Hop, max_body_bytes: int) -> OutboundResponse:
        with _told_as_ours():
            response = await self._pool.handle_async_request(_wire_request(hop))
            try:
                body, is_truncated = await _read(response, max_body_bytes)
            finally:
                await response.aclose()
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers
        }
        return OutboundResponse(response.status, headers, body, is_truncated, str(hop.url))

    def _next_hop(self, hop: _Hop, response: OutboundResponse) -> _Hop | None:
        """The request that a redirect asks for; None when the answer is none.

        Methods change as in https://fetch.spec.whatwg.org/#http-redirect-fetch.
        """
        location = response.headers.get("location")
        if response.status not in _REDIRECTS or location is None:
            return None
        if hop.redirects_left == 0:
            raise RedirectRefused("too many redirects")
        try:
            url = self._rules.parse_redirect(hop.url, location)
        except UrlRefused as error:
            raise RedirectRefused(error.detail) from error
        method, content, headers = hop.method, hop.content, hop.headers
        becomes_get = response.status == 303 and method != "HEAD"
        if becomes_get or (response.status in {301, 302} and method == "POST"):
            method, content = "GET", b""
            headers = {k: v for k, v in headers.items() if not k.startswith("content-")}
        if url.origin != hop.url.origin:
            if content:
                raise RedirectRefused("a body would go to another origin")
            headers = {k: v for k, v in headers.items() if k in _SENT_TO_ANOTHER_ORIGIN}
        return _Hop(method, url, headers, content, hop.redirects_left - 1)


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """Raises OutboundFailed in place of what httpcore raises."""
    try:
        yield
    except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.ProxyError) as error:
        raise Unreachable(repr(error)) from error
    except httpcore.LocalProtocolError as error:
        raise RequestRefused(repr(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise BadAnswer(repr(error)) from error


def _wire_request(hop: _Hop) -> httpcore.Request:
    url = httpcore.URL(
        scheme=hop.url.scheme, host=hop.url.host, port=hop.url.port, target=hop.url.target
    )
    ours = {"host": hop.url.authority, "accept-encoding": "identity", "connection": "close"}
    if hop.content or hop.method in {"PATCH", "POST", "PUT"}:
        ours["content-length"] = str(len(hop.content))
    return httpcore.Request(
        hop.method, url, headers=list((ours | hop.headers).items()), content=hop.content
    )


async def _read(response: httpcore.Response, max_bytes: int) -> tuple[bytes, bool]:
    """The body up to `max_bytes`, and whether there is more of it."""
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > max_bytes:
            return bytes(body[:max_bytes]), True
    return bytes(body), False


def _checked_method(method: str) -> str:
    if method not in _METHODS:
        raise RequestRefused(f"method {method!r}")
    return method


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with lower-case names, none of which changes how the request is read."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        is_ours = lower in OURS_TO_SET or lower.startswith("proxy-") or lower in checked
        if is_ours or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise RequestRefused(f"header {name!r}")
        checked[lower] = value
    size_bytes = sum(len(name) + len(value) for name, value in checked.items())
    if len(checked) > MAX_HEADERS or size_bytes > MAX_HEADER_BYTES:
        raise RequestRefused("too many or too long headers")
    return checked


def _proxy_pool(proxy_url: str, context: ssl.SSLContext) -> httpcore.AsyncHTTPProxy:
    parts = urlsplit(proxy_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an egress proxy is http://host:port or https://host:port")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return httpcore.AsyncHTTPProxy(
        proxy_url=httpcore.URL(
            scheme=parts.scheme, host=parts.hostname, port=parts.port, target="/"
        ),
        proxy_auth=(user, password) if user else None,
        ssl_context=context,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=0,
        network_backend=ProxyNetwork(),
    )
