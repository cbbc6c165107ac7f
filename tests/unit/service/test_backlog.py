"""Limits hold between two counts, and what is promised in `Retry-After` was measured."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.errors import QueueFull, Saturated
from shared.ids import new_id
from shared.service.backlog import MAX_RETRY_AFTER_S, Backlog, Count, Limits, Outflow

TENANT, OTHER = new_id(), new_id()
KEY = "thread:1"


def make(chance: float = 0.0, **limits: Any) -> Backlog:
    known = {"per_key": 0, "per_tenant": 0, "total": 0, "deadline_s": 1e9, **limits}
    return Backlog(Limits(**known), chance=lambda: chance)


def accept(backlog: Backlog, number: int, tenant_id: UUID = TENANT, key: str = KEY) -> None:
    for _ in range(number):
        backlog.leave(backlog.enter(tenant_id, key), accepted=True)


def count(backlog: Backlog, at: float = 0.0, newest: int | None = None, **waiting: Any) -> None:
    backlog.begin_count()
    backlog.update(read(at, newest, **waiting))


def read(at: float, newest: int | None, claimable: int | None = None, **waiting: Any) -> Count:
    """What waits: `total`, `tenant`, `key`; all of it for a worker unless `claimable` says less."""
    scopes: dict[str, Any] = {"total": None, "tenant": TENANT, "key": (TENANT, KEY)}
    if claimable is None:
        claimable = waiting.get("total", 0)
    depths = {scopes[name]: n for name, n in waiting.items()}
    return Count(at, depths, newest, tenants=1, claimable=claimable)


@pytest.mark.parametrize(
    ("limit", "counted", "reason"),
    [
        ({"per_key": 10}, {"key": 7}, "queue_key"),
        ({"per_tenant": 10}, {"tenant": 7}, "queue_tenant"),
        ({"total": 10}, {"total": 7}, "queue_all"),
    ],
)
def test_a_limit_holds_with_what_was_accepted_since_the_count(
    limit: dict[str, int], counted: dict[str, int], reason: str
) -> None:
    backlog = make(**limit)
    count(backlog, **counted)
    accept(backlog, 2)
    assert backlog.find_refusal(TENANT, KEY) is None
    accept(backlog, 1)
    refusal = backlog.find_refusal(TENANT, KEY)
    assert isinstance(refusal, QueueFull)
    assert refusal.reason == reason
    assert backlog.refused.is_set()


def test_others_are_not_refused_for_a_full_key_or_tenant() -> None:
    backlog = make(per_key=1, per_tenant=2)
    count(backlog)
    accept(backlog, 1)
    assert backlog.find_refusal(TENANT, KEY) is not None
    assert backlog.find_refusal(TENANT, "another") is None
    assert backlog.find_refusal(OTHER, KEY) is None
    accept(backlog, 1, key="another")
    assert backlog.find_refusal(TENANT, "a third") is not None
    assert backlog.find_refusal(OTHER, "a third") is None


def test_many_at_once_are_counted_before_any_of_them_is_accepted() -> None:
    backlog = make(per_key=3)
    count(backlog)
    entered = [backlog.enter(TENANT, KEY) for _ in range(3)]
    assert backlog.find_refusal(TENANT, KEY) is not None
    backlog.leave(entered[0], accepted=False)
    assert backlog.find_refusal(TENANT, KEY) is None


def test_what_is_accepted_while_a_count_is_taken_is_not_lost() -> None:
    backlog = make(per_key=3)
    count(backlog)
    accept(backlog, 1)
    backlog.begin_count()
    accept(backlog, 2)
    backlog.update(read(1.0, 1, key=1))
    assert backlog.find_refusal(TENANT, KEY) is not None
    count(backlog, 2.0, key=2)
    assert backlog.find_refusal(TENANT, KEY) is None


def test_nothing_is_refused_while_nobody_knows() -> None:
    backlog = make(per_key=1, per_tenant=1, total=1)
    accept(backlog, 5)
    assert backlog.find_refusal(TENANT, KEY) is None
    count(backlog, key=5)
    assert backlog.find_refusal(TENANT, KEY) is not None
    backlog.forget()
    assert backlog.find_refusal(TENANT, KEY) is None


def test_no_limit_is_no_limit() -> None:
    backlog = make()
    count(backlog, total=10**9, tenant=10**9, key=10**9)
    assert backlog.find_refusal(TENANT, KEY) is None


def test_nothing_is_kept_of_turns_that_are_over() -> None:
    backlog = make(per_key=10)
    count(backlog)
    for number in range(100):
        backlog.leave(backlog.enter(TENANT, str(number)), accepted=number % 2 == 0)
    assert not backlog._entering.turns
    count(backlog, 1.0)
    assert not backlog._since.turns


# -- how fast they leave


def test_what_leaves_is_what_was_accepted_less_what_waits_more() -> None:
    outflow = Outflow()
    outflow.observe(read(0.0, 1000, total=500))
    assert outflow.per_s is None
    outflow.observe(read(2.0, 1300, total=600))  # 300 came, 100 more wait
    assert outflow.per_s == pytest.approx(100.0)


def test_an_idle_fleet_is_not_taken_for_a_slow_one() -> None:
    outflow = Outflow()
    outflow.observe(read(0.0, 1000, total=500))
    outflow.observe(read(1.0, 1100, total=500))
    assert outflow.per_s == pytest.approx(100.0)
    outflow.observe(read(2.0, 1100, total=0))  # 500 left: at least so fast
    fast = outflow.per_s
    assert fast is not None
    assert fast > 100
    outflow.observe(read(3.0, None, total=0))
    outflow.observe(read(4.0, 1101, total=1))
    outflow.observe(read(5.0, 1104, total=1))  # three came and three left, all there was
    assert outflow.per_s == fast


def test_an_absent_fleet_leaves_what_was_known_and_a_slow_one_is_measured_for_longer() -> None:
    outflow = Outflow()
    outflow.observe(read(0.0, 1000, total=500))
    outflow.observe(read(1.0, 1100, total=500))
    for second in range(2, 12):
        outflow.observe(read(float(second), 1100, total=500))
        assert outflow.per_s == pytest.approx(100.0)
    slow = Outflow()
    slow.observe(read(0.0, 1000, total=500))
    slow.observe(read(1.0, 1000, total=500))
    slow.observe(read(10.0, 1000, total=499))
    assert slow.per_s == pytest.approx(0.1)


def saturated(per_s: int, **limits: Any) -> Backlog:
    """A backlog of 1,000 turns of which `per_s` leave each second."""
    backlog = make(**limits)
    count(backlog, 0.0, 5000, total=1000, tenant=1000, key=1000)
    count(backlog, 1.0, 5000 + per_s, total=1000, tenant=1000, key=1000)
    return backlog


@pytest.mark.parametrize(
    ("per_s", "chance", "retry_after_s"),
    [(10, 0.0, 10), (10, 1.0, 15), (100, 0.0, 1), (1, 1.0, MAX_RETRY_AFTER_S)],
)
def test_retry_after_is_when_a_tenth_of_the_queue_has_left(
    per_s: int, chance: float, retry_after_s: int
) -> None:
    backlog = saturated(per_s, per_key=1000, chance=chance)
    refusal = backlog.find_refusal(TENANT, KEY)
    assert refusal is not None
    assert refusal.retry_after_s == retry_after_s


def test_who_would_wait_too_long_is_told_so() -> None:
    backlog = saturated(10, deadline_s=99.0)
    refusal = backlog.find_refusal(TENANT, KEY)
    assert isinstance(refusal, Saturated)
    assert (refusal.reason, refusal.retry_after_s) == ("wait", 1)
    assert saturated(10, deadline_s=101.0).find_refusal(TENANT, KEY) is None


def test_a_tenant_without_turns_does_not_wait_for_those_of_another() -> None:
    assert saturated(1, deadline_s=99.0).find_refusal(OTHER, KEY) is None


def test_turns_that_wait_for_their_own_key_say_nothing_of_the_workers() -> None:
    outflow = Outflow()
    outflow.observe(read(0.0, 1000, total=500))
    outflow.observe(read(1.0, 1100, total=500))
    for second in range(2, 60):  # one line of long turns; the workers have nothing else to do
        outflow.observe(read(float(second), 1100 + second, claimable=0, total=500))
    assert outflow.per_s == pytest.approx(100.0)
