"""What an API process refuses before it does anything: by rate, by open streams, when saturated.

Who is counted is an API key, or a user with all their tokens and sessions: `Principal.counted_as`.

All of it is counted in this process alone, with nothing to wait for. How many turns may wait is
decided in `shared.service.backlog`. Cancels, Get Turn, health and metrics are never refused here.
"""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

from starlette.types import Message, Scope, Send

from api.pressure import Pressure
from shared.errors import RateLimitExceeded, Saturated, TooManyStreams
from shared.metrics import Metrics
from shared.settings import Settings

CREDENTIAL: Final = "turnkeep.credential"
"""Under this name a request's scope holds who is counted: `Principal.counted_as`."""
COUNTED: Final = "turnkeep.counted"
"""The same with the limit of their kind, `(RateLimit, UUID)`, where the kind has one of its own."""
KEPT_BUCKETS: Final = 10_000
_MAX_RETRY_AFTER_S: Final = 5


def soon_s() -> int:
    """A `Retry-After` for what may be over at any moment, spread so that not all come at once."""
    return random.randint(1, _MAX_RETRY_AFTER_S)  # noqa: S311 - nobody gains by guessing it


class Rate(NamedTuple):
    """What somebody may still ask: `reset` is in how many seconds all of it is there again."""

    limit: int
    remaining: int
    reset: int


class RateLimit:
    """A token bucket for each who is counted: `per_minute` at once, refilled evenly over a minute.

    The buckets used last are kept; one that is forgotten is full again.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._per_s = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[UUID, tuple[float, float]] = OrderedDict()
        """Tokens, and when there were so many."""

    def take(self, who: UUID) -> None:
        """Takes a token.

        Raises:
            RateLimitExceeded: there is none.
        """
        now = self._clock()
        tokens = self._tokens(who, now)
        if tokens < 1:
            wait_s = (1 - tokens) / self._per_s
            raise RateLimitExceeded(
                "Rate limit exceeded", reason="rate", retry_after_s=math.ceil(wait_s)
            )
        self._buckets[who] = (tokens - 1, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > KEPT_BUCKETS:
            self._buckets.popitem(last=False)

    def look(self, who: UUID) -> Rate:
        """What is left."""
        tokens = self._tokens(who, self._clock())
        return Rate(self._most, int(tokens), math.ceil((self._most - tokens) / self._per_s))

    def headers(self, who: UUID) -> list[tuple[bytes, bytes]]:
        """The same for a response."""
        return [
            (b"x-ratelimit-%s" % name.encode(), b"%d" % value)
            for name, value in self.look(who)._asdict().items()
        ]

    def telling(self, scope: Scope, send: Send) -> Send:
        """`send`, with these headers on the answer to whoever is known by then."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and CREDENTIAL in scope:
                headers = [*message.get("headers", ()), *self.headers(scope[CREDENTIAL])]
                message = {**message, "headers": headers}
            await send(message)

        return tell

    def _tokens(self, who: UUID, now: float) -> float:
        tokens, at = self._buckets.get(who, (float(self._most), now))
        return min(float(self._most), tokens + (now - at) * self._per_s)


class Seats:
    """How many of something are open, in all and of each who is counted; 0 is no limit.

    A seat is held in a `with` block and nowhere else, so it is given back exactly once.
    """

    def __init__(self, most: int, most_per_key: int) -> None:
        self.open = 0
        self.by_key: dict[UUID, int] = {}
        self._most = most
        self._most_per_key = most_per_key

    @property
    def is_full(self) -> bool:
        return 0 < self._most <= self.open

    def is_full_for(self, who: UUID) -> bool:
        """Whether they have as many as they may."""
        return 0 < self._most_per_key <= self.by_key.get(who, 0)

    def hold(self, who: UUID) -> Seat:
        """One more, whether or not it is within the limits."""
        return Seat(self, who)


class Seat:
    """One open thing, while the block runs."""

    __slots__ = ("_seats", "_who")

    def __init__(self, seats: Seats, who: UUID) -> None:
        self._seats = seats
        self._who = who

    def __enter__(self) -> None:
        seats = self._seats
        seats.open += 1
        seats.by_key[self._who] = seats.by_key.get(self._who, 0) + 1

    def __exit__(self, *_: object) -> None:
        seats = self._seats
        seats.open -= 1
        left = seats.by_key[self._who] - 1
        if left:
            seats.by_key[self._who] = left
        else:
            del seats.by_key[self._who]


class Admission:
    """What the handlers ask before they begin."""

    def __init__(self, settings: Settings, metrics: Metrics, pressure: Pressure) -> None:
        self.streams = Seats(settings.max_streams, settings.max_streams_per_key)
        self.polls = Seats(settings.max_polls, 0)
        self.transfers = Seats(settings.max_transfers, math.ceil(settings.max_transfers / 4))
        self._pressure = pressure
        self._metrics = metrics
        metrics.open_polls.set_function(lambda: self.polls.open)

    def require_calm(self) -> None:
        """Asked before anything is written.

        Raises:
            Saturated: what is under way takes too long already.
        """
        reason = self._pressure.reason
        if reason is not None:
            raise Saturated("The service is at its limit", reason=reason, retry_after_s=soon_s())

    def stream(self, who: UUID) -> Seat:
        """Holds a seat while a stream is prepared; the response holds its own.

        Raises:
            TooManyStreams: the caller has as many open as allowed.
            Saturated: the process has.
        """
        streams = self.streams
        if streams.is_full_for(who):
            raise TooManyStreams(
                "Too many open streams", reason="streams_key", retry_after_s=soon_s()
            )
        if streams.is_full:
            raise Saturated(
                "The service is at its limit", reason="streams_all", retry_after_s=soon_s()
            )
        return streams.hold(who)

    def poll(self, who: UUID) -> Seat | None:
        """Holds a seat while a request waits; None: too many do, so answer at once."""
        if self.polls.is_full:
            self._metrics.refusals.labels(reason="polls").inc()
            return None
        return self.polls.hold(who)

    def wait(self, who: UUID) -> Seat:
        """The same for what nobody could ask for later: taken before anything is written.

        Raises:
            Saturated: too many wait.
        """
        if self.polls.is_full:
            raise Saturated("Too many requests wait", reason="polls", retry_after_s=soon_s())
        return self.polls.hold(who)

    def transfer(self, who: UUID) -> Seat:
        """Holds a seat while a file is on its way; nobody gets more than a quarter of them.

        Raises:
            Saturated: there is none.
        """
        if self.transfers.is_full or self.transfers.is_full_for(who):
            raise Saturated(
                "Too many files are on their way", reason="transfers", retry_after_s=soon_s()
            )
        return self.transfers.hold(who)
