"""What goes wrong with requests to addresses that tenants choose.

TurnkeepError
├── AddressRefused           one address is not public; `kind` says why, for our log alone
└── OutboundFailed           str(error) and `code` may be shown to the tenant, `detail` may not
    ├── UrlRefused           the URL breaks a rule; sending it again will not help
    ├── RequestRefused       method or headers that may not be sent
    ├── RedirectRefused      a redirect that may not be followed, or too many
    ├── Unreachable          no public address, or no connection to it
    ├── TlsFailed            no TLS, or a certificate that is not valid for the name
    ├── BadAnswer            not HTTP, too much of it, or broken off
    └── TimedOut             not finished within the total time

`Unreachable` is one class on purpose: a name that is unknown, one that leads inside and one that
nobody listens at look alike, or tenants could explore our network and its names.
"""

from __future__ import annotations

from typing import ClassVar

from shared.errors import TurnkeepError


class AddressRefused(TurnkeepError):
    """No request may go to this address. `kind` is one word or two: `loopback`, `NAT64`, ..."""

    code = "outbound_address_refused"

    def __init__(self, kind: str) -> None:
        super().__init__(f"not a public address: {kind}")
        self.kind = kind


class OutboundFailed(TurnkeepError):
    """Root of what a tenant is told. `detail` names addresses and banners: for our log alone."""

    code = "outbound_failed"
    reason: ClassVar[str] = "The request failed"

    def __init__(self, detail: str = "") -> None:
        super().__init__(self.reason)
        self.detail = detail


class UrlRefused(OutboundFailed):
    """The message names the rule and repeats nothing of the URL."""

    code = "outbound_url_refused"

    def __init__(self, reason: str) -> None:
        TurnkeepError.__init__(self, reason)
        self.detail = reason


class RequestRefused(OutboundFailed):
    """A method or header that is not the tenant's to set."""

    code = "outbound_request_refused"
    reason = "The method or a header of the request is not allowed"


class RedirectRefused(OutboundFailed):
    """`detail` says which rule the redirect breaks."""

    code = "outbound_redirect_refused"
    reason = "A redirect leads where requests may not go, or there are too many"


class Unreachable(OutboundFailed):
    """No answer for the name, an address that is not public, or no connection."""

    code = "outbound_unreachable"
    reason = "The host cannot be reached at a public address"


class TlsFailed(OutboundFailed):
    """The handshake failed."""

    code = "outbound_tls_failed"
    reason = "No TLS connection with a certificate that is valid for the host"


class BadAnswer(OutboundFailed):
    """The peer broke HTTP, its head is too long, or the connection was lost."""

    code = "outbound_bad_answer"
    reason = "The answer is not valid HTTP, too long, or incomplete"


class TimedOut(OutboundFailed):
    """The total time is over, wherever the request was."""

    code = "outbound_timed_out"
    reason = "No complete answer in time"
