"""What else the whole product promises, small: each scenario asserts its own invariants."""

from __future__ import annotations

import pytest

from tests.acceptance import promises
from tests.acceptance.product import Product

pytestmark = pytest.mark.timeout(60)


async def test_models_that_fail_or_hang_fail_their_turn(product: Product) -> None:
    await promises.fail_models(product)


async def test_providers_that_fail_or_hang_fail_their_turn(product: Product) -> None:
    await promises.fail_providers(product)


async def test_workers_told_to_leave_at_once_leave(product: Product) -> None:
    await promises.stop_fresh_workers(product, times=4)


async def test_impatience_is_no_failure(product: Product) -> None:
    await promises.stop_impatiently(product, times=2)


async def test_redis_is_away_and_comes_back_empty(product: Product) -> None:
    figures = await promises.restart_redis(product, away_s=1.5)
    assert figures.accepted_meanwhile > 0


async def test_api_that_leaves_sends_its_readers_elsewhere(product: Product) -> None:
    figures = await promises.drain_api(product)
    assert figures.exit_s < 8


async def test_two_api_processes(product: Product) -> None:
    figures = await promises.run_two_api_processes(product, turns=5)
    assert figures.exit_s < 12


async def test_polling_and_attaching(product: Product) -> None:
    figures = await promises.poll_and_attach(product)
    assert figures.long_poll_lag_s < 4


async def test_bad_input_gets_an_answer_and_leaves_nothing(product: Product) -> None:
    figures = await promises.send_bad_input(product)
    assert set(figures.by_status) == {401, 404, 405, 413, 415, 422}
