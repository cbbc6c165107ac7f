"""How long a refusal takes tells nothing about how nearly right the key was."""

from __future__ import annotations

import math
import secrets
import statistics
import time
from typing import Any

import pytest

from shared.errors import NotAuthenticated
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key
from shared.service.credentials import Credentials
from tests.fixtures.system import add_principal

SAMPLES = 10_000
LIMIT_T = 4.5


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_nearly_right_and_wholly_wrong_take_the_same_time(
    database: Database, admin: Any
) -> None:
    pepper = b"a pepper for tests"
    principal = await add_principal(admin)
    good = await create_api_key(
        database,
        tenant_id=principal.tenant_id,
        user_id=principal.user_id,
        name="test",
        pepper=pepper,
    )
    credentials = Credentials(database, pepper)
    took: dict[str, list[float]] = {"near": [], "far": []}
    for number in range(2 * SAMPLES):
        # The same length, and in turn, so that both meet the same machine.
        kind = "near" if number % 2 else "far"
        ending = secrets.token_urlsafe(6)
        secret = good[:-8] + ending if kind == "near" else secrets.token_hex(40)[: len(good)]
        began = time.perf_counter()
        with pytest.raises(NotAuthenticated):
            await credentials.authenticate(secret)
        took[kind].append(time.perf_counter() - began)
    t = welch(took["near"], took["far"])
    assert abs(t) < LIMIT_T, f"t = {t:.2f}"


def welch(a: list[float], b: list[float]) -> float:
    """Welch's t, of samples without their slowest twentieth: those are the machine's."""
    a, b = (sorted(values)[: len(values) * 19 // 20] for values in (a, b))
    spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(spread)


def test_welch_sees_a_difference() -> None:
    a = [1.0 + number % 10 / 100 for number in range(1000)]
    assert abs(welch(a, list(a))) < LIMIT_T
    assert abs(welch(a, [value * 1.01 for value in a])) > LIMIT_T
