"""What open streams need while nothing happens: two loops look after all of them.

A timer, a timeout and a task for each stream would cost more than the stream. Every stream is
looked at about once a second, its credential asked for every two; the looks are spread over the
second, so that ten thousand idle streams make nobody wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

import structlog

from shared.errors import PostgresUnavailable
from shared.service.credentials import Credentials

log = structlog.get_logger(__name__)

CREDENTIAL_CHECK_S: Final = 2.0
"""How often all credentials are asked for that are cached or have streams open, in one question. A
revoked one is forgotten and loses its streams then. Who got past one question (a look-up was under
way) is met by the next: 5 s in all while Postgres answers within a third of a second."""
_SLICES: Final = 20


class Stream(Protocol):
    """An open stream, as its keeper sees it."""

    key_id: UUID

    def look(self, now: float) -> None:
        """Does what is due: a keep-alive, an end of age, a watch for the client's leaving."""
        ...

    def revoke(self) -> None:
        """Ends at once: the credential is no longer valid."""
        ...


class StreamKeeper:
    """`run_looks` and `run_checks` are its loops.

    `look_interval_s` is how often each stream is looked at.
    """

    def __init__(self, credentials: Credentials, *, look_interval_s: float) -> None:
        self._credentials = credentials
        self._pause_s = look_interval_s / _SLICES
        self._slices: list[set[Stream]] = [set() for _ in range(_SLICES)]
        self._next_slice = 0

    def add(self, stream: Stream) -> int:
        """Begins to look after a stream; tells what `remove` wants to know."""
        self._next_slice = (self._next_slice + 1) % _SLICES
        self._slices[self._next_slice].add(stream)
        return self._next_slice

    def remove(self, stream: Stream, place: int) -> None:
        """Ends what `add` began."""
        self._slices[place].discard(stream)

    async def run_looks(self) -> None:
        """Looks at one slice of the streams after another, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            for streams in self._slices:
                await asyncio.sleep(self._pause_s)
                now = clock()
                for stream in list(streams):
                    try:
                        stream.look(now)
                    except Exception:  # one stream must not end the look after all others
                        log.exception("stream.look_failed")

    async def run_checks(self) -> None:
        """Ends streams whose credential was revoked, until cancelled."""
        while True:
            await asyncio.sleep(CREDENTIAL_CHECK_S)
            in_use = {stream.key_id for stream in self._all()}
            try:
                revoked = await self._credentials.find_revoked(in_use)
            except PostgresUnavailable:
                continue
            if not revoked:
                continue
            for stream in self._all():
                if stream.key_id in revoked:
                    stream.revoke()

    def _all(self) -> Iterable[Stream]:
        return [stream for streams in self._slices for stream in streams]
