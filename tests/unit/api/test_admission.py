"""Rates and seats: exact by a clock that is passed in, and nothing is kept for ever."""

from __future__ import annotations

import contextlib
from unittest.mock import Mock

import pytest

from api import admission
from api.admission import Admission, RateLimit, Seats
from api.pressure import Mark, Pressure
from shared.errors import RateLimitExceeded, Saturated, TooManyStreams
from shared.ids import new_id
from shared.metrics import Metrics
from shared.settings import Settings

KEY, OTHER = new_id(), new_id()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(limit: RateLimit) -> tuple[int, ...]:
    """Limit, remaining, reset."""
    return tuple(int(value) for _, value in limit.headers(KEY))


def test_a_minute_s_worth_may_come_at_once_and_then_one_at_a_time(clock: Clock) -> None:
    limit = RateLimit(120, clock=clock)
    assert told(limit) == (120, 120, 0)
    for _ in range(120):
        limit.take(KEY)
    assert told(limit) == (120, 0, 60)
    with pytest.raises(RateLimitExceeded) as refused:
        limit.take(KEY)
    assert (str(refused.value), refused.value.retry_after_s) == ("Rate limit exceeded", 1)
    clock.now += 0.5
    limit.take(KEY)
    with pytest.raises(RateLimitExceeded):
        limit.take(KEY)
    clock.now += 3600
    assert told(limit) == (120, 120, 0)


def test_retry_after_is_when_the_next_one_is_served(clock: Clock) -> None:
    limit = RateLimit(2, clock=clock)
    limit.take(KEY)
    limit.take(KEY)
    with pytest.raises(RateLimitExceeded) as refused:
        limit.take(KEY)
    assert refused.value.retry_after_s == 30
    clock.now += 30
    limit.take(KEY)


def test_one_credential_does_not_use_up_another_s_rate(clock: Clock) -> None:
    limit = RateLimit(1, clock=clock)
    limit.take(KEY)
    limit.take(OTHER)


def test_buckets_are_bounded_and_the_busy_ones_stay(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "KEPT_BUCKETS", 10)
    limit = RateLimit(1000, clock=clock)
    for _ in range(50):
        limit.take(KEY)
        limit.take(new_id())
    assert len(limit._buckets) == 10
    assert told(limit)[1] == 950


def test_seats_are_given_back_once_however_the_block_ends() -> None:
    seats = Seats(3, 2)
    with seats.hold(KEY), seats.hold(KEY):
        assert seats.is_full_for(KEY)
        assert not seats.is_full_for(OTHER)
        with contextlib.suppress(ZeroDivisionError), seats.hold(OTHER):
            assert seats.is_full
            raise ZeroDivisionError
        assert not seats.is_full
    assert (seats.open, seats.by_key) == (0, {})


def test_no_limit_is_never_full() -> None:
    seats = Seats(0, 0)
    with seats.hold(KEY):
        assert not seats.is_full
        assert not seats.is_full_for(KEY)


SETTINGS = Settings.model_validate(
    {"database_url": "postgresql://x", "redis_url": "redis://x", "key_pepper": "p" * 16}
    | {"max_streams": 2, "max_streams_per_key": 1, "max_polls": 1}
)


def test_who_is_refused_what_when_all_is_taken() -> None:
    metrics = Metrics()
    asked = Admission(SETTINGS, metrics, Mock(reason=None))
    asked.require_calm()
    with asked.stream(KEY):
        with pytest.raises(TooManyStreams):
            asked.stream(KEY)
        with asked.stream(OTHER), pytest.raises(Saturated) as refused:
            asked.stream(new_id())
    assert 1 <= refused.value.retry_after_s <= 5
    poll = asked.poll(KEY)
    assert poll is not None
    with poll:
        assert asked.poll(OTHER) is None
        assert metrics.registry.get_sample_value("turnkeep_open_polls") == 1
    assert asked.poll(OTHER) is not None
    with pytest.raises(Saturated):
        Admission(SETTINGS, Metrics(), Mock(reason="loop_lag")).require_calm()


def test_one_slow_moment_refuses_nobody_and_a_refusal_does_not_flicker() -> None:
    mark = Mark(0.2)
    seen = []
    for sample, times in ((1.0, 1), (1.0, 5), (0.0, 11), (0.0, 11)):
        for _ in range(times):
            mark.observe(sample, after_s=0.1)
        seen.append((mark.is_high, round(mark.value, 2)))
    assert seen == [(False, 0.1), (True, 0.45), (True, 0.15), (False, 0.05)]


def test_either_a_late_loop_or_late_commits_are_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.pressure.MAX_LOOP_LAG_S", 0.2)
    monkeypatch.setattr("api.pressure.MAX_COMMIT_WAIT_S", 0.5)
    waits_s = iter((0.0, 1.0, 1.0, 0.0))
    pressure = Pressure(lambda: next(waits_s), Metrics())
    found = []
    for lag_s in (0.0, 0.0, 1.0, 0.0):
        pressure.look(lag_s, 10.0)
        found.append(pressure.reason)
    assert found == [None, "commit_wait", "loop_lag", None]


def test_a_process_that_stood_still_is_soon_calm_again() -> None:
    mark = Mark(0.2)
    mark.observe(60.0, 60.0)
    assert mark.is_high
    for _ in range(25):
        mark.observe(0.0, 0.1)
    assert not mark.is_high
