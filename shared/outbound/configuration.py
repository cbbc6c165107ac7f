"""The deployment's settings as rules for outbound requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from shared.outbound.address_rules import IPAddress, IPNetwork
from shared.outbound.url_rules import OutboundRules


class OutboundSettings(Protocol):
    """What the rules need of a deployment's settings."""

    @property
    def outbound_ports(self) -> frozenset[int]: ...
    @property
    def outbound_allow_http(self) -> bool: ...
    @property
    def outbound_own_addresses(self) -> frozenset[IPAddress]: ...
    @property
    def mcp_private_networks(self) -> frozenset[IPNetwork]: ...


def outbound_rules(settings: OutboundSettings) -> OutboundRules:
    """The rules that hold when a URL is saved and again when a request is sent to it."""
    return OutboundRules(
        ports=settings.outbound_ports,
        allow_http=settings.outbound_allow_http,
        own_addresses=settings.outbound_own_addresses,
    )


def mcp_rules(settings: OutboundSettings) -> OutboundRules:
    """The same for MCP servers, which may stand in the networks that the operator has named."""
    return replace(outbound_rules(settings), private_networks=settings.mcp_private_networks)
