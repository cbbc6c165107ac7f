"""One reading of a URL, and a refusal of whatever could be read in two ways."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.outbound.errors import UrlRefused
from shared.outbound.url_rules import OutboundRules

RULES = OutboundRules()

NOT_PUBLIC = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0.0.0.0",  # noqa: S104 - refused, not bound
    "0",
    "127.0.0.1.",
    "127.0.0.01",
    "1.2.3.4.5",
    "256.1.1.1",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "foo.localhost",
    "printer.local",
    "db.internal",
    "db.internal.",
    "metadata",
    "metadata.google.internal",
    "nas.home.arpa",
    "x.onion",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "100.64.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "１２７.０.０.１",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "ｌｏｃａｌｈｏｓｔ",
    "[::1",
    "::1",
    "[127.0.0.1]",
    "[1.1.1.1]",
    "%31%32%37.0.0.1",
    "",
    ".",
    "a..example.com",
    "-a.example.com",
    "a_b.example.com",
    "a*.example.com",
    "exa℀mple.com",
    "straße.example.com",
    "x" * 64 + ".example.com",
    "a." * 127 + "com",
]
REFUSED = [
    *(
        f"https://example.com:{port}/"
        for port in (0, 22, 25, 80, 5432, 6379, 8080, 65536, 99999999)
    ),
    *(
        f"https://example.com:{port}/"
        for port in ("", "0443", "+443", "４４３", "443x", "-1", "443:443")
    ),
    "http://example.com/",
    "HTTP://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "file://example.com/etc/passwd",
    "gopher://example.com/_x",
    "unix:///var/run/docker.sock",
    "data:text/plain,x",
    "javascript:alert(1)",
    "https:example.com",
    "https:/example.com/",
    "https:///example.com/",
    "//example.com/",
    "example.com",
    "https://",
    "",
    "https://a@127.0.0.1/",
    "https://example.com@127.0.0.1/",
    "https://user:password@example.com/",
    "https://@example.com/",
    "https://example.com#@127.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com\\@127.0.0.1/",
    "https:\\\\example.com/",
    "https://example.com/\\x",
    "https://exam\tple.com/",
    "https://exam\nple.com/",
    "https://example.com/\r\nHost: a",
    "https://example.com/\x00",
    "https://example.com/\x7f",
    "https://example.com/a b",
    "https://example.com/\xa0",
    "https://exam\xadple.com/",
    " https://example.com/",
    "https://example.com/ ",
    "\thttps://example.com/",
    "https://example.com/é",
    "https://example.com/%zz",
    "https://example.com/%",
    'https://example.com/"',
    "https://example.com/<>",
    "https://example.com/\ud800",
    "https://example.com/" + "a" * 8192,
    "https://example.com/" + "a" * (2049 - 20),
    "https://" + "ü" * 5000 + ".com/",
]


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_hosts_that_are_not_public(host: str) -> None:
    for url in (f"https://{host}", f"https://{host}/path?q", f"https://{host}:8443/"):
        with pytest.raises(UrlRefused):
            RULES.parse_url(url)


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: ascii(url)[:60])
def test_refused_urls(url: str) -> None:
    with pytest.raises(UrlRefused):
        RULES.parse_url(url)


@pytest.mark.parametrize(
    ("text", "normal", "host", "port", "target"),
    [
        ("https://example.com", "https://example.com/", "example.com", 443, "/"),
        (
            "HTTPS://Example.COM:443/A?b=C",
            "https://example.com/A?b=C",
            "example.com",
            443,
            "/A?b=C",
        ),
        ("https://example.com.:8443?x", "https://example.com:8443/?x", "example.com", 8443, "/?x"),
        (
            "https://bücher.example/%C3%BC",
            "https://xn--bcher-kva.example/%C3%BC",
            "xn--bcher-kva.example",
            443,
            "/%C3%BC",
        ),
        ("https://ｅｘａｍｐｌｅ．ｃｏｍ/", "https://example.com/", "example.com", 443, "/"),
        ("https://1.1.1.1/", "https://1.1.1.1/", "1.1.1.1", 443, "/"),
        ("https://１.１.１.１/", "https://1.1.1.1/", "1.1.1.1", 443, "/"),
        (
            "https://[2606:4700:0::1111]:8443/",
            "https://[2606:4700::1111]:8443/",
            "2606:4700::1111",
            8443,
            "/",
        ),
        ("https://h.example.com/a[1]", "https://h.example.com/a[1]", "h.example.com", 443, "/a[1]"),
    ],
)
def test_one_normal_form(text: str, normal: str, host: str, port: int, target: str) -> None:
    url = RULES.parse_url(text)
    assert (str(url), url.host, url.port, url.target) == (normal, host, port, target)
    assert RULES.parse_url(normal) == url


@given(
    text=st.one_of(
        st.text(max_size=40).map("https://{}".format),
        st.from_regex(r"https://[a-z0-9.\-@\[\]:%#?/\\１０。]{1,40}", fullmatch=True),
    )
)
def test_whatever_passes_is_its_own_normal_form(text: str) -> None:
    try:
        url = RULES.parse_url(text)
    except UrlRefused:
        return
    assert str(url).isascii()
    assert RULES.parse_url(str(url)) == url


def test_a_url_of_2048_bytes_is_not_too_long() -> None:
    url = "https://example.com/" + "a" * (2048 - 20)
    assert str(RULES.parse_url(url)) == url


def test_ports_and_http_are_settings() -> None:
    rules = OutboundRules(ports={80, 443}, allow_http=True)
    assert str(rules.parse_url("http://example.com:80/x")) == "http://example.com/x"
    with pytest.raises(UrlRefused, match="80, 443"):
        rules.parse_url("http://example.com:8443/")
    with pytest.raises(UrlRefused):
        rules.parse_url("http://127.0.0.1/")


def test_our_own_address_is_refused_when_a_url_is_saved() -> None:
    rules = OutboundRules(own_addresses={ip_address("8.8.8.8")})
    with pytest.raises(UrlRefused, match="not a public one"):
        rules.parse_url("https://8.8.8.8/")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b?c", "https://example.com/b?c"),
        ("c", "https://example.com/a/c"),
        ("//other.example/x#y", "https://other.example/x"),
        ("https://other.example:8443/", "https://other.example:8443/"),
        ("", "https://example.com/a/b"),
    ],
)
def test_redirects_that_may_be_followed(location: str, target: str) -> None:
    base = RULES.parse_url("https://example.com/a/b")
    assert str(RULES.parse_redirect(base, location)) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "//127.0.0.1/",
        "file:///etc/passwd",
        "gopher://example.com/_",
        "//[x/",
        "https://a@example.com/",
        "\\\\127.0.0.1\\",
        "/\r\nx",
        "https://example.com:22/",
        "/" + "a" * 3000,
    ],
)
def test_redirects_that_may_not(location: str) -> None:
    rules = OutboundRules(ports={80, 443}, allow_http=True)
    base = rules.parse_url("https://example.com/a/b")
    with pytest.raises(UrlRefused):
        rules.parse_redirect(base, location)
