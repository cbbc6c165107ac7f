"""Who sends wrong credentials, and how many: beyond a limit they are told 429 instead of 401.

Only failures are counted and only failures are refused, so a good key passes from everywhere, also
from the address of a proxy that it shares with somebody who guesses. Passwords are the exception:
beyond the limit none is tried.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import structlog

from api.admission import Rate
from shared.errors import TooManyFailures

log = structlog.get_logger(__name__)

WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 10_000
_UNKNOWN: Final = "unknown"


class FailedCredentials:
    """Counts by address, in this process alone; of too many addresses the oldest is forgotten."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` failures in `WINDOW_S` are answered as what they are; 0 sets no limit."""
        self._limit = limit
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Address → end of its window, failures in it."""

    def require_few(self, host: str | None) -> None:
        """Asked before a password is tried; a wrong one costs too much to be tried for ever.

        Raises:
            TooManyFailures: the address has used up its window.
        """
        until, count = self._failures.get(group_of(host), (0.0, 0))
        now = self._clock()
        if self._limit and count >= self._limit and until > now:
            raise TooManyFailures(math.ceil(until - now))

    def look(self, host: str | None) -> Rate | None:
        """What is left of the address' window; None: there is no limit."""
        if not self._limit:
            return None
        until, count = self._failures.get(group_of(host), (0.0, 0))
        left_s = math.ceil(until - self._clock())
        if left_s <= 0:
            return Rate(self._limit, self._limit, 0)
        return Rate(self._limit, max(0, self._limit - count), left_s)

    def note(self, host: str | None) -> None:
        """Counts one failure of the peer with this address.

        Raises:
            TooManyFailures: it has used up its window.
        """
        if not self._limit:
            return
        address, now = group_of(host), self._clock()
        until, count = self._failures.get(address, (now + WINDOW_S, 0))
        if until <= now:
            until, count = now + WINDOW_S, 0
        count += 1
        self._failures[address] = (until, count)
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if count > self._limit:
            if count == self._limit + 1:
                log.warning("auth.too_many_failures", address=address, limit=self._limit)
            raise TooManyFailures(math.ceil(until - now))


def group_of(host: str | None) -> str:
    """What counts as one address: of IPv6 the /64, which one customer has whole."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host or "")
    except ValueError:
        return _UNKNOWN  # a unix socket has none
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
