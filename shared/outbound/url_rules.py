"""Which URLs a request may go to, and the one reading of each. Pure; standard library only.

The text is taken apart here once and never parsed again: the client connects to these parts, so
no second parser can read another host from it. Grammar: RFC 3986, without what it leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urljoin

from shared.outbound.address_rules import AddressRule, IPAddress, IPNetwork, require_public
from shared.outbound.errors import AddressRefused, UrlRefused

MAX_URL_BYTES: Final = 2048
MAX_HOST_CHARACTERS: Final = 253
DEFAULT_PORTS: Final = frozenset({443, 8443})

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?")
_UNWANTED: Final = re.compile(r"[\x00-\x20\x7f-\xa0\xad\\\ud800-\udfff]")
_TARGET: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]|-]|%[0-9A-Fa-f]{2})*")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MEANS_OTHER_IN_IDNA_2008: Final = re.compile("[ßẞς\u200c\u200d]")
_DEFAULT_PORT_OF: Final = {"https": 443, "http": 80}
_LOCAL_SUFFIXES: Final = frozenset(
    {"alt", "corp", "home", "home.arpa", "internal", "intranet", "invalid", "lan", "local",
     "localdomain", "localhost", "onion", "private", "test"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OutboundUrl:
    """A URL that passed. `host` is a lower-case ASCII name, or an address without brackets."""

    scheme: str
    host: str
    port: int
    target: str
    address: IPAddress | None

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """What the Host header says: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORT_OF[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """The normal form; parsing it again gives the same parts."""
        return f"{self.scheme}://{self.authority}{self.target}"


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """One deployment's rules. The address rule is another one in tests on loopback only."""

    ports: Collection[int] = DEFAULT_PORTS
    allow_http: bool = False
    own_addresses: Collection[IPAddress] = frozenset()
    private_networks: Collection[IPNetwork] = ()
    """Not public and reached all the same; then names such as `crm.internal` are resolved too."""
    address_rule: AddressRule = require_public

    def check_address(self, address: IPAddress) -> None:
        """Raises AddressRefused for an address that no request may go to."""
        # Link-local never: that is where clouds keep a machine's own credentials.
        is_named = any(address in network for network in self.private_networks)
        if not is_named or address.is_link_local:
            self.address_rule(address, self.own_addresses)

    def parse_url(self, text: str) -> OutboundUrl:
        """Takes `text` apart. Resolves nothing: a name may still lead to a refused address.

        Raises:
            UrlRefused: with the rule it breaks, in words for its author.
        """
        _check_text(text)
        match = _URL.fullmatch(text)
        if match is None:
            raise UrlRefused("The URL must look like https://host/path, without a fragment")
        scheme, authority, target = match[1].lower(), match[2], match[3]
        if scheme != "https" and not (scheme == "http" and self.allow_http):
            raise UrlRefused("The URL must begin with https://")
        host, port = _split_authority(authority)
        name, address = _parse_host(host, local_names=bool(self.private_networks))
        if address is not None:
            self._check_literal(address)
        number = _DEFAULT_PORT_OF[scheme] if port is None else int(port)
        if number not in self.ports:
            allowed = ", ".join(str(port) for port in sorted(self.ports))
            raise UrlRefused(f"The port must be one of: {allowed}")
        if not _TARGET.fullmatch(target):
            raise UrlRefused("The path or query contains characters that must be percent-encoded")
        if not target.startswith("/"):
            target = "/" + target
        url = OutboundUrl(scheme, name, number, target, address)
        if len(str(url)) > MAX_URL_BYTES:
            raise UrlRefused(f"The URL is longer than {MAX_URL_BYTES} bytes")
        return url

    def parse_redirect(self, base: OutboundUrl, location: str) -> OutboundUrl:
        """Where `location`, absolute or relative to `base`, leads; its fragment is dropped.

        Raises:
            UrlRefused: as `parse_url`, and for a step from https to http.
        """
        _check_text(location)
        try:
            joined = urljoin(str(base), location.partition("#")[0])
        except ValueError:  # brackets that hold no address
            raise UrlRefused("The host is not valid") from None
        url = self.parse_url(joined)
        if base.scheme == "https" and url.scheme != "https":
            raise UrlRefused("The URL must begin with https://")
        return url

    def _check_literal(self, address: IPAddress) -> None:
        try:
            self.check_address(address)
        except AddressRefused:
            raise UrlRefused("The address is not a public one") from None


def _check_text(text: str) -> None:
    if len(text) > MAX_URL_BYTES:
        raise UrlRefused(f"The URL is longer than {MAX_URL_BYTES} bytes")
    if _UNWANTED.search(text):
        raise UrlRefused("The URL contains spaces, control characters or backslashes")
    if len(text.encode()) > MAX_URL_BYTES:
        raise UrlRefused(f"The URL is longer than {MAX_URL_BYTES} bytes")


def _split_authority(authority: str) -> tuple[str, str | None]:
    if "@" in authority:
        raise UrlRefused("The URL must not contain a user name or password")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not match[1]:
        raise UrlRefused("The host or port is not valid")
    return match[1], match[2]


def _parse_host(host: str, *, local_names: bool) -> tuple[str, IPAddress | None]:
    """The host in its one spelling, and its address if it is a literal one."""
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1])
        except AddressValueError:
            raise UrlRefused("The host is not valid") from None
        return str(address), address
    name = _to_ascii(host)
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            literal = IPv4Address(name)
        except AddressValueError:
            raise UrlRefused("An IPv4 address must be four decimal numbers") from None
        return str(literal), literal
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("The host is not valid")
    is_local = len(labels) == 1 or _LOCAL_SUFFIXES & {labels[-1], ".".join(labels[-2:])}
    if is_local and not local_names:
        raise UrlRefused("The host must be a public name")
    return name, None


def _to_ascii(host: str) -> str:
    """The name as DNS has it: lower case, without a last dot; full-width digits become digits.

    The codec is IDNA 2003 (RFC 3490). The few letters that mean another name under IDNA 2008 are
    refused; who owns such a name writes it as `xn--...`.
    """
    if len(host) > MAX_HOST_CHARACTERS or _MEANS_OTHER_IN_IDNA_2008.search(host):
        raise UrlRefused("The host is not valid")
    try:
        name = host.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        raise UrlRefused("The host is not valid") from None
    if len(name) > MAX_HOST_CHARACTERS:
        raise UrlRefused("The host is not valid")
    return name
