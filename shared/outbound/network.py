"""Connects to addresses that passed the rules, and to no others: httpcore's network, guarded.

A name is resolved once per connection. Every answer must be public; the connection then goes to
one of exactly these addresses, and its far end is compared with it afterwards.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Final

import httpcore

from shared.outbound.address_rules import IPAddress
from shared.outbound.errors import AddressRefused, BadAnswer, TlsFailed, Unreachable
from shared.outbound.url_rules import OutboundRules

RESOLVE_TIMEOUT_S: Final = 3.0
CONNECT_TIMEOUT_S: Final = 3.0
MAX_ADDRESSES_TRIED: Final = 3
MAX_ADDRESSES: Final = 64
MAX_WIRE_BYTES: Final = 4 * 1_048_576
"""Read from one connection, heads and chunk sizes included: bounds what a body limit does not."""
_RESOLVER_THREADS: Final = 8

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Takes a name and a port; returns every address of the name, as text. Raises OSError."""


class SystemResolver:
    """getaddrinfo on threads of its own, so that slow name servers hold up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "outbound-dns")

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(self._threads, _getaddrinfo, name, port)
        return [str(sockaddr[0]) for *_, sockaddr in answers]

    def close(self) -> None:
        """Waits for nothing: a thread ends with the question it is asking."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _BoundedNetwork(httpcore.AsyncNetworkBackend):
    """Connects in `CONNECT_TIMEOUT_S`, whatever the caller says, and bounds what is read."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._connect(host, port), MAX_WIRE_BYTES)

    async def _connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        return await self._network.connect_tcp(host, port, timeout=CONNECT_TIMEOUT_S)


class ProxyNetwork(_BoundedNetwork):
    """Connects to the operator's egress proxy, wherever it is. The proxy resolves and filters."""


class GuardedNetwork(_BoundedNetwork):
    """Resolves, checks, connects, checks again."""

    def __init__(self, rules: OutboundRules, resolver: Resolver) -> None:
        super().__init__()
        self._rules = rules
        self._resolver = resolver

    async def _connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """A stream to a checked address of `host`.

        Raises:
            Unreachable: no answer, an answer that is not public, or no connection.
        """
        failure: Exception | None = None
        for address in await self._checked_addresses(host, port):
            try:
                stream = await super()._connect(str(address), port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            if not self._is_peer(stream, address):
                await stream.aclose()
                raise Unreachable(f"connected to something else than {address}")
            return stream
        raise Unreachable(f"no connection to {host}: {failure}") from failure

    async def _checked_addresses(self, host: str, port: int) -> list[IPAddress]:
        """At most `MAX_ADDRESSES_TRIED`, in the resolver's order, after all of them have passed."""
        addresses = await self._resolve(host, port)
        if not 1 <= len(addresses) <= MAX_ADDRESSES:
            raise Unreachable(f"{host} has {len(addresses)} addresses")
        for address in addresses:
            try:
                self._rules.check_address(address)
            except AddressRefused as error:
                raise Unreachable(f"{host} leads to {address}: {error.kind}") from error
        return addresses[:MAX_ADDRESSES_TRIED]

    async def _resolve(self, host: str, port: int) -> list[IPAddress]:
        if (literal := _literal(host)) is not None:
            return [literal]
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                answers = await self._resolver(host, port)
            return list(dict.fromkeys(ip_address(answer) for answer in answers))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise Unreachable(f"cannot resolve {host}: {error!r}") from error

    def _is_peer(self, stream: httpcore.AsyncNetworkStream, address: IPAddress) -> bool:
        """Whether the far end is `address`, which passed, and nothing in between changed it."""
        try:
            peer = ip_address(stream.get_extra_info("server_addr")[0])
            self._rules.check_address(peer)
        except (OSError, TypeError, ValueError, AddressRefused):
            return False
        return peer == address


class BoundedStream(httpcore.AsyncNetworkStream):
    """A stream that ends with an error after `max_bytes` were read. TLS starts a fresh count."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._left_bytes = max_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            data = await self._stream.read(max_bytes, timeout)
        except ssl.SSLError as error:
            raise TlsFailed(repr(error)) from error
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise BadAnswer(f"more than {self._max_bytes} bytes on the wire")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            await self._stream.write(buffer, timeout)
        except ssl.SSLError as error:
            raise TlsFailed(repr(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore.ConnectError as error:
            raise TlsFailed(repr(error)) from error
        return BoundedStream(stream, self._max_bytes)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _literal(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _getaddrinfo(name: str, port: int) -> list[Any]:
    """Both families whether or not this host has both: every answer must be seen to be checked."""
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
