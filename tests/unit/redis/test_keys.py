"""Redis keys: one slot per lane, and no caller's string inside."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from shared.redis.keys import Keys

KEYS = Keys(prefix="p", lane="3")
TENANT = UUID(int=1)


def all_keys(concurrency_key: str) -> list[str]:
    turn = UUID(int=2)
    return [
        KEYS.generation, KEYS.ready, KEYS.clock, KEYS.tags, KEYS.workers, KEYS.jobs,
        KEYS.line(TENANT, concurrency_key), KEYS.busy(TENANT, concurrency_key),
        KEYS.meta(turn), KEYS.log(turn), KEYS.feed(turn), KEYS.control("w"),
    ]  # fmt: skip


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_keys_share_a_slot_and_stay_short(concurrency_key: str) -> None:
    keys = all_keys(concurrency_key)
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert key.startswith("p:{p3}:")
        assert key.count("{") == key.count("}") == 1
        assert len(key) < 100
        assert key.isascii()


def test_tenants_do_not_share_lines() -> None:
    assert KEYS.line(TENANT, "a") != KEYS.line(UUID(int=9), "a")
