"""The deployment's settings as rules for outbound requests."""

from __future__ import annotations

from shared.outbound.url_rules import OutboundRules
from shared.settings import Settings


def outbound_rules(settings: Settings) -> OutboundRules:
    """The rules that hold when a URL is saved and again when a request is sent to it."""
    return OutboundRules(
        ports=settings.outbound_ports,
        allow_http=settings.outbound_allow_http,
        own_addresses=settings.outbound_own_addresses,
    )
