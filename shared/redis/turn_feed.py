"""What is published of turns, handed to those who listen for one: no subscription per turn.

Turns are spread over `FEEDS` channels. A process subscribes to a channel when somebody first
listens for one of its turns, keeps it for a while, and finds the listeners by the turn's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from shared.redis.event_log import parse_message
from shared.redis.keys import Keys
from shared.redis.subscriber import Subscriber, Subscription
from shared.turn.events import EventBatch

LINGER_S: Final = 60.0
"""How long a channel stays subscribed that nobody listens on."""

Hear = Callable[[EventBatch | None], None]
"""Takes what was published; None means that something may have been missed: look elsewhere."""


class TurnFeed:
    """The listeners of a process."""

    def __init__(self, subscriber: Subscriber, keys: Keys) -> None:
        self._subscriber = subscriber
        self._keys = keys
        self._channels: dict[str, _Channel] = {}

    def listen(self, turn_id: UUID, hear: Hear) -> Listener:
        """Hears of a turn from now on; `hear` must not block and must not raise.

        Unless the listener `is_live`, it hears None once Redis has acknowledged the channel.
        """
        name = self._keys.feed(turn_id)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            channel.subscription = self._subscriber.subscribe_soon(name, channel.take)
        return Listener(channel, turn_id, hear)

    def unsubscribe_idle(self) -> None:
        """Gives up channels that nobody has listened on for `LINGER_S`."""
        now = time.monotonic()
        for name, channel in list(self._channels.items()):
            if channel.listeners or now - channel.used_at < LINGER_S:
                continue
            del self._channels[name]
            if channel.subscription is not None:
                channel.subscription.close()


class Listener:
    """One party's interest in one turn."""

    __slots__ = ("_channel", "_turn", "hear")

    def __init__(self, channel: _Channel, turn_id: UUID, hear: Hear) -> None:
        self._channel = channel
        self._turn = str(turn_id).encode()
        self.hear = hear
        channel.listeners.setdefault(self._turn, []).append(self)

    @property
    def is_live(self) -> bool:
        """Whether everything published from now on is heard, or else None."""
        return self._channel.is_acknowledged

    def close(self) -> None:
        """Ends the interest; closing again does nothing."""
        channel = self._channel
        listeners = channel.listeners.get(self._turn, [])
        if self in listeners:
            listeners.remove(self)
        if not listeners:
            channel.listeners.pop(self._turn, None)
            channel.used_at = time.monotonic()
        # Else the two would refer to each other until the collector comes, with all they hold.
        self.hear = _hear_nothing


def _hear_nothing(_: EventBatch | None) -> None:
    """What a listener that was closed does with news that is under way."""


class _Channel:
    """One subscribed channel. After a lost connection it stays acknowledged: a None follows."""

    __slots__ = ("is_acknowledged", "listeners", "subscription", "used_at")

    def __init__(self) -> None:
        self.listeners: dict[bytes, list[Listener]] = {}
        self.subscription: Subscription | None = None
        self.is_acknowledged = False
        self.used_at = time.monotonic()

    def take(self, message: bytes | None) -> None:
        if message is None:
            self.is_acknowledged = True
            for listeners in list(self.listeners.values()):
                for listener in list(listeners):
                    listener.hear(None)
            return
        turn, _, rest = message.partition(b" ")
        listeners = self.listeners.get(turn, [])
        if listeners:
            batch = parse_message(rest)
            for listener in list(listeners):
                listener.hear(batch)
