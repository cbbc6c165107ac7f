"""The keeper's promises: one bad stream or one bad answer stops neither looks nor checks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import pytest

from api import stream_keeper
from api.stream_keeper import StreamKeeper
from shared import background
from shared.background import in_background
from shared.ids import new_id
from shared.service.credentials import Credentials
from tests.fixtures.waiting import wait_until


class Keys:
    """Some keys are valid; asking may fail."""

    def __init__(self, *valid: UUID) -> None:
        self.valid = set(valid)
        self.failures: list[Exception] = []

    async def find_revoked(self, in_use: set[UUID]) -> set[UUID]:
        if self.failures:
            raise self.failures.pop()
        return in_use - self.valid


class Stream:
    def __init__(self, key_id: UUID, *, fails: bool = False) -> None:
        self.key_id = key_id
        self.looks = 0
        self.is_revoked = False
        self._fails = fails

    def look(self, now: float) -> None:
        self.looks += 1
        if self._fails:
            raise ZeroDivisionError

    def revoke(self) -> None:
        self.is_revoked = True


@contextlib.asynccontextmanager
async def keeper(keys: Any) -> AsyncIterator[StreamKeeper]:
    kept = StreamKeeper(cast("Credentials", keys), look_interval_s=0.02)
    async with in_background(kept.run_looks, kept.run_checks):
        yield kept


async def test_every_stream_is_looked_at_until_it_is_removed() -> None:
    async with keeper(Keys()) as kept:
        streams = [Stream(new_id(), fails=number == 0) for number in range(50)]
        places = [kept.add(stream) for stream in streams]
        await wait_until(lambda: all(stream.looks > 2 for stream in streams), "all are looked at")
        for stream, place in zip(streams, places, strict=True):
            kept.remove(stream, place)
        seen = [stream.looks for stream in streams]
        another = Stream(new_id())
        kept.add(another)
        await wait_until(lambda: another.looks > 2, "it goes round")
        assert seen == [stream.looks for stream in streams]


async def test_streams_of_a_revoked_key_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_keeper, "CREDENTIAL_CHECK_S", 0.01)
    monkeypatch.setattr(background, "RESTART_PAUSE_S", 0.01)
    good, bad = new_id(), new_id()
    keys = Keys(good)
    keys.failures = [ZeroDivisionError()]
    async with keeper(keys) as kept:
        stays, goes = Stream(good), Stream(bad)
        kept.add(stays)
        kept.add(goes)
        await wait_until(lambda: goes.is_revoked, "it is ended")
    assert not stays.is_revoked
