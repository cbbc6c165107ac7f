"""No part of the product replaces the address rule, the resolver or the TLS context."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from shared.outbound.address_rules import require_public
from shared.outbound.client import GuardedClient
from shared.outbound.configuration import mcp_rules, outbound_rules
from shared.outbound.errors import UrlRefused
from shared.outbound.url_rules import OutboundRules
from shared.settings import Settings

_GUARD = {"OutboundRules", "GuardedClient"}
_FOR_TESTS = {"address_rule", "resolver", "ssl_context"}
_REQUIRED = {"database_url": "x", "redis_url": "x", "key_pepper": "p" * 16}


def constructions(code: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls of the guard's constructors, and of `replace`, which could change a copy."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in _GUARD | {"cls", "replace"}:
                yield name, node


def loosened(code: str) -> list[str]:
    """Keywords that loosen the guard; `*` stands for arguments that cannot be told."""
    found = []
    for name, call in constructions(code):
        found += [word.arg for word in call.keywords if word.arg in _FOR_TESTS]
        if name in _GUARD:
            found += ["*" for word in call.keywords if word.arg is None]
            found += ["*" for argument in call.args if isinstance(argument, ast.Starred)]
            found += ["*"] if len(call.args) > 1 else []
    return found


def test_the_strict_rule_is_the_default() -> None:
    assert OutboundRules().address_rule is require_public
    rules = outbound_rules(Settings.model_validate(_REQUIRED))
    assert rules == OutboundRules()
    assert rules.private_networks == ()


def test_settings_reach_the_rules() -> None:
    given = {
        "outbound_ports": [443],
        "outbound_allow_http": True,
        "outbound_own_addresses": ["8.8.8.8", "2600::1"],
    }
    rules = outbound_rules(Settings.model_validate(_REQUIRED | given))
    assert rules.ports == {443}
    assert rules.allow_http
    assert {str(address) for address in rules.own_addresses} == {"8.8.8.8", "2600::1"}
    assert rules.address_rule is require_public
    assert {field.name for field in fields(rules)} == {
        "ports", "allow_http", "own_addresses", "private_networks", "address_rule",
    }  # fmt: skip


def test_private_networks_are_for_mcp_servers_alone() -> None:
    given = {"mcp_private_networks": ["10.1.0.0/16", "fd00::/8", "169.254.0.0/16"]}
    settings = Settings.model_validate(_REQUIRED | given)
    assert outbound_rules(settings) == OutboundRules()
    rules = mcp_rules(settings)
    assert rules.address_rule is require_public
    for host in ("10.1.2.3", "[fd00::1]", "crm.internal", "crm", "example.org"):
        assert rules.parse_url(f"https://{host}/").host
    for host in ("10.2.0.1", "127.0.0.1", "169.254.169.254", "[::ffff:10.1.2.3]", "2130706433"):
        with pytest.raises(UrlRefused):
            rules.parse_url(f"https://{host}/")
    assert mcp_rules(Settings.model_validate(_REQUIRED)) == OutboundRules(
        private_networks=frozenset()
    )


def test_nothing_in_the_product_passes_another_rule() -> None:
    files = [
        path
        for folder in ("api", "shared", "worker", "deploy")
        for path in Path(folder).rglob("*.py")
    ]
    calls = {str(path): loosened(path.read_text()) for path in files}
    assert len(calls) > 60
    assert not {path: words for path, words in calls.items() if words}


@pytest.mark.parametrize(
    "code",
    [
        "OutboundRules(address_rule=f)",
        "x.OutboundRules(**y)",
        "GuardedClient(r, resolver=f)",
        "OutboundRules(p, h)",
        "GuardedClient(ssl_context=c)",
        "GuardedClient(*a)",
        "replace(rules, address_rule=f)",
        "cls(r, ssl_context=c)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert loosened(code)


async def test_a_proxy_is_an_explicit_setting() -> None:
    for value in ("socks5://proxy:1", "proxy:3128", "http://"):
        with pytest.raises(ValueError, match="egress proxy"):
            GuardedClient(proxy_url=value)
    settings = Settings.model_validate(_REQUIRED | {"outbound_proxy_url": "http://10.0.0.1:3128"})
    async with GuardedClient.from_settings(settings):
        pass
