"""Only public unicast addresses pass, whatever form a private one takes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.outbound.address_rules import embedded_ipv4, require_public
from shared.outbound.errors import AddressRefused

REFUSED = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("0.0.0.0", "unspecified"),  # noqa: S104 - refused, not bound
    ("10.0.0.1", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("169.254.169.254", "link-local"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.100.100.200", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("168.63.129.16", "cloud metadata"),
    ("192.0.0.192", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "loopback"),
    ("::808:808", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "reserved"),
    ("64:ff9b::7f00:1", "loopback"),
    ("64:ff9b::808:808", "NAT64"),
    ("64:ff9b:1::1", "NAT64"),
    ("64:ff9b:1:ffff:ffff::", "NAT64"),
    ("2002:7f00:1::", "loopback"),
    ("2002:808:808::1", "6to4"),
    ("2001:0:808:808::f7f7:f7f7", "Teredo"),
    ("2001:2::1", "reserved"),
    ("2001:10::1", "reserved"),
    ("2001:20::1", "reserved"),
    ("2001:db8::1", "documentation"),
    ("3fff::1", "documentation"),
    ("100::1", "reserved"),
    ("5f00::1", "reserved"),
    ("4000::1", "reserved"),
    ("fc00::1", "unique local"),
    ("fd00:ec2::254", "unique local"),
    ("fd20:ce::254", "unique local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "with a zone"),
    ("2600::1%eth0", "with a zone"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast"),
    ("2600::5efe:7f00:1", "loopback"),
    ("2600::200:5efe:a00:1", "private"),
    ("127.1", "not an address"),
    ("127.000.0.1", "not an address"),
]
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "172.15.255.255", "172.32.0.0", "192.167.255.255", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "2001:4860:4860::8888", "2606:4700::1111", "2a00::1", "2600::5efe:808:808",
]  # fmt: skip
IPV4 = st.ip_addresses(v=4).map(lambda address: IPv4Address(int(address)))
PRIVATE_V4 = st.one_of(
    *(
        st.ip_addresses(network=network)
        for network in (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "224.0.0.0/4",
        )
    )
).map(lambda address: IPv4Address(int(address)))
PUBLIC_NETWORK = st.integers(0x2400_0000_0000_0000, 0x2FFF_FFFF_FFFF_FFFF)
FORMS = {
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "compatible": lambda v4: v4,
    "nat64": lambda v4: 0x64_FF9B << 96 | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80,
    "teredo": lambda v4: 0x2001_0000 << 96 | v4 << 64 | 0xF7F7_F7F7,
}


@pytest.mark.parametrize(("address", "kind"), REFUSED)
def test_refused_addresses(address: str, kind: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        require_public(address)
    assert refused.value.kind == kind


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    require_public(address)


@pytest.mark.parametrize("form", FORMS)
@given(v4=IPV4)
def test_every_form_that_carries_an_ipv4_address_is_refused(form: str, v4: IPv4Address) -> None:
    address = IPv6Address(FORMS[form](int(v4)))
    with pytest.raises(AddressRefused):
        require_public(address)
    assert v4 in embedded_ipv4(address) or int(address) <= 1


@given(network=PUBLIC_NETWORK, flags=st.sampled_from([0, 0x0200]), v4=PRIVATE_V4)
def test_isatap_cannot_hide_an_address(network: int, flags: int, v4: IPv4Address) -> None:
    address = IPv6Address(network << 64 | flags << 48 | 0x5EFE << 32 | int(v4))
    with pytest.raises(AddressRefused):
        require_public(address)


@given(address=st.ip_addresses())
def test_nothing_passes_that_the_standard_library_knows_as_not_global(
    address: IPv4Address | IPv6Address,
) -> None:
    try:
        require_public(address)
    except AddressRefused:
        return
    assert address.is_global
    assert not address.is_multicast
    assert not address.is_reserved


def test_our_own_public_addresses_are_refused_in_every_form() -> None:
    own = {ip_address("8.8.8.8"), ip_address("2600::1")}
    for text in ("8.8.8.8", "2600::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2600::5efe:808:808"):
        with pytest.raises(AddressRefused, match="our own"):
            require_public(text, own)
    require_public("8.8.4.4", own)
