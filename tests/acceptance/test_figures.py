"""The scenarios of the figures, small: the promises themselves, and times with wide margins."""

from __future__ import annotations

import pytest

from tests.acceptance import scenarios
from tests.acceptance.product import Product

pytestmark = pytest.mark.timeout(60)


async def test_one_idempotency_key_is_one_turn(product: Product) -> None:
    figures = await scenarios.submit_one_key_often(product, at_once=20, later=4)
    assert (figures.sent, figures.ids, figures.executions) == (24, 1, 1)


async def test_one_idempotency_key_is_one_stream(product: Product) -> None:
    figures = await scenarios.stream_one_key_often(product, at_once=10, later=2)
    assert (figures.sent, figures.ids, figures.executions) == (12, 1, 1)


async def test_turns_of_one_key_run_one_by_one_in_order(product: Product) -> None:
    figures = await scenarios.run_one_line(product, turns=8)
    assert figures.gaps.p50 < 0.5


async def test_readers_that_reconnect_miss_nothing(product: Product) -> None:
    figures = await scenarios.reconnect_at_random(product, readers=20, deltas=300, interval_ms=5)
    assert figures.reconnects > 20


async def test_killed_worker_is_replaced(product: Product) -> None:
    figures = await scenarios.kill_holders(product, kills=2, deltas=60)
    assert figures.takeover.most < 6


async def test_frozen_worker_writes_nothing_when_it_comes_back(product: Product) -> None:
    figures = await scenarios.freeze_holder(product, lease_s=2.0, heartbeat_s=0.3)
    assert figures.refused_writes > 0


async def test_cancel_ends_the_stream_and_keeps_the_text(product: Product) -> None:
    figures = await scenarios.cancel_streaming(product, times=10, watched_s=0.5)
    assert figures.deltas_after_ack == 0
    assert figures.ack.p50 < 0.5


async def test_redis_forgets_everything(product: Product) -> None:
    figures = await scenarios.flush_under_load(product, keys=4, queued_per_key=4, deltas=60)
    assert figures.right == 20


async def test_workers_are_replaced_under_load(product: Product) -> None:
    figures = await scenarios.roll_workers(product, lines=8, long_deltas=250, drain_s=0.5)
    assert figures.failed == 0
    assert figures.handed_over > 0


async def test_api_is_small_and_knows_no_model_library(product: Product) -> None:
    figures = await scenarios.watch_idle_api(product, turns=5)
    assert figures.fresh_rss_mib < 70
