"""The loop that counts what waits: what it knew is given up in time, and it goes on counting."""

from __future__ import annotations

from typing import Any

import pytest

from shared import background
from shared.background import in_background
from shared.ids import new_id
from shared.metrics import Metrics
from shared.service import backlog as module
from shared.service.backlog import Backlog, BacklogCounter, Limits
from tests.fixtures.system import Api, MakeTurn
from tests.fixtures.waiting import wait_until


async def test_a_count_that_is_long_past_refuses_nobody(
    api: Api, make_turn: MakeTurn, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_S", 1.5)
    monkeypatch.setattr(background, "RESTART_PAUSE_S", 0.05)
    await api.submit(make_turn())
    backlog = Backlog(Limits(0, 0, 1, deadline_s=1e9))
    stranger = new_id()

    def is_full() -> bool:
        return backlog.find_refusal(stranger, "key") is not None

    async with in_background(BacklogCounter(api.database, backlog, Metrics()).run):
        await wait_until(is_full, "the turn is counted")
        await admin.execute("alter table turns rename to turns_meanwhile")
        assert is_full()
        await wait_until(lambda: not is_full(), "what was counted is given up")
        await admin.execute("alter table turns_meanwhile rename to turns")
        await wait_until(is_full, "it is counted again")
