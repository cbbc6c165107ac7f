"""Ids sort by the time they were made."""

from __future__ import annotations

import time
import uuid

import pytest

from shared.ids import new_id


def test_an_id_is_a_uuid_7_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= after


def test_ids_are_unique() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_ids_sort_by_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000_000, 1_700_000_000_100))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 1_000_000)
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(ids)
