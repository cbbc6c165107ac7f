"""Counting failures: by address, for a minute, of a bounded number of addresses."""

from __future__ import annotations

import pytest

from api import failed_credentials
from api.failed_credentials import FailedCredentials, group_of
from shared.errors import TooManyFailures


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_beyond_the_limit_for_the_rest_of_the_minute() -> None:
    clock = Clock()
    failed = FailedCredentials(3, clock)
    for _ in range(3):
        failed.note("192.0.2.1")
    clock.now += 20
    with pytest.raises(TooManyFailures) as caught:
        failed.note("192.0.2.1")
    assert caught.value.retry_after_s == 40
    failed.note("192.0.2.2")
    clock.now += 40
    failed.note("192.0.2.1")


def test_no_limit() -> None:
    failed = FailedCredentials(0)
    for _ in range(1000):
        failed.note("192.0.2.1")
    assert not failed._failures


def test_what_is_left_can_be_told() -> None:
    now = 1000.0
    failed = FailedCredentials(2, clock=lambda: now)
    assert failed.look("192.0.2.1") == (2, 2, 0)
    failed.note("192.0.2.1")
    now += 0.5
    assert failed.look("192.0.2.1") == (2, 1, 60)
    assert failed.look("192.0.2.2") == (2, 2, 0)
    failed.note("192.0.2.1")
    with pytest.raises(TooManyFailures):
        failed.note("192.0.2.1")
    assert failed.look("192.0.2.1") == (2, 0, 60)
    now += 60
    assert failed.look("192.0.2.1") == (2, 2, 0)
    assert FailedCredentials(0).look("192.0.2.1") is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_credentials, "MAX_ADDRESSES", 10)
    failed = FailedCredentials(1)
    for number in range(100):
        failed.note(f"192.0.2.{number}")
    assert list(failed._failures) == [f"192.0.2.{number}" for number in range(90, 100)]


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("not an address", "unknown"),
    ],
)
def test_what_counts_as_one_address(host: str | None, group: str) -> None:
    assert group_of(host) == group
