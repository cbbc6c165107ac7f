"""Fixtures for every test. Servers start only for tests that ask for them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.fixtures.documented import *  # noqa: F403 - fixtures are found by name
from tests.fixtures.servers import *  # noqa: F403 - fixtures are found by name
from tests.fixtures.system import *  # noqa: F403 - the same

hypothesis_settings.register_profile(
    "turnkeep",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("turnkeep")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts us in the background has us, and what we start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LINGER_S = 2.0


_LONG = ("tests/acceptance/", "tests/deploy/", "tests/integration/service/", "tests/chaos/")
"""Tests that take long: run last, each would keep one process while others idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first; within that, the order is as random as before."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> Iterator[None]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _patient_with_a_busy_machine() -> Iterator[None]:
    """That a loop or Postgres stands still for a second is no sign of load where tests share both.

    Only what runs in this process; tests of these limits set them themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.postgres.pool.ACQUIRE_TIMEOUT_S", 6.0)
        patch.setattr("api.pressure.MAX_LOOP_LAG_S", 3600.0)
        patch.setattr("api.pressure.MAX_COMMIT_WAIT_S", 3600.0)
        yield


@pytest.fixture(autouse=True)
def _check_async_tests(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_leaked_tasks")


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Whatever a test and its fixtures start must have ended when they have."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # Driver calls finish on their own even when their caller is gone.
        await asyncio.wait(left, timeout=_LINGER_S)
    leaked = [repr(task) for task in left if not task.done()]
    for task in left:
        task.cancel()
    assert not leaked, "tasks left behind:\n" + "\n".join(leaked)
