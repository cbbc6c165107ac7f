"""The loop that notes when credentials were used goes on after a defect."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from shared import background
from shared.postgres.pool import Database
from shared.service import credentials
from shared.service.credentials import Credentials
from tests.fixtures.waiting import wait_until


async def test_a_defect_ends_no_noting_of_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "NOTE_USES_EVERY_S", 0.001)
    monkeypatch.setattr(background, "RESTART_PAUSE_S", 0.001)
    noted = 0

    class Keys(Credentials):
        async def note_uses(self) -> None:
            nonlocal noted
            noted += 1
            if noted == 1:
                raise LookupError("odd")

    with capture_logs() as told:
        async with Keys(Database("postgresql://nowhere", size=1), b"pepper"):
            await wait_until(lambda: noted > 3, "it goes on")
    assert [line["event"] for line in told] == ["background.defect"]
    before = noted
    assert before > 3
