"""Which IP addresses a request may go to: public unicast alone. Pure; standard library only.

`ipaddress.is_global` is not enough: on Python 3.11 it passes multicast, 6to4, NAT64, site-local
and IPv4-compatible addresses. The tables follow IANA's special-purpose registries:
https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from shared.outbound.errors import AddressRefused

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
AddressRule = Callable[[IPAddress, Collection[IPAddress]], None]
"""Takes an address and our own ones; raises AddressRefused or returns."""

_REFUSED_V4: Final = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),  # public by its number, each Azure host's own
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_V6: Final = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP_INTERFACES: Final = (0x0000_5EFE, 0x0200_5EFE)


def require_public(address: IPAddress | str, own_addresses: Collection[IPAddress] = ()) -> None:
    """Returns for a public unicast address that is none of ours.

    An IPv4 address within an IPv6 one must pass too, and all forms but ISATAP are refused
    whatever they carry: who means the IPv4 address can name it.

    Raises:
        AddressRefused: every other address, and text that is none.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            raise AddressRefused("not an address") from None
    if isinstance(address, IPv4Address):
        _require_public_v4(address, own_addresses)
        return
    if address.scope_id is not None:
        raise AddressRefused("with a zone")
    if address in own_addresses:
        raise AddressRefused("our own")
    for embedded in embedded_ipv4(address):
        _require_public_v4(embedded, own_addresses)
    for network, kind in _REFUSED_V6:
        if address in network:
            raise AddressRefused(kind)
    if address not in _GLOBAL_UNICAST:
        raise AddressRefused("reserved")


def embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """IPv4 addresses that a host or relay may send to when it is asked for `address`.

    Mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo's server and
    client (RFC 4380), and ISATAP (RFC 5214), which looks like any address of a public network.
    """
    low = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None or address in _NAT64:
        return (low,)
    if address in _IPV4_COMPATIBLE and int(address) > 1:  # not :: and ::1
        return (low,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_INTERFACES:
        return (low,)
    return ()


def _require_public_v4(address: IPv4Address, own_addresses: Collection[IPAddress]) -> None:
    if address in own_addresses:
        raise AddressRefused("our own")
    for network, kind in _REFUSED_V4:
        if address in network:
            raise AddressRefused(kind)
