"""Times in the query of a delete: any way to write the same instant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from api.mechamental.schemas import DeleteMessageQuery

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T12:00:00Z",
        "2026-01-02T12:00:00.000000Z",
        "2026-01-02T12:00:00+00:00",
        "2026-01-02T12:00:00 00:00",
        "2026-01-02T13:30:00.000 01:30",
        "2026-01-02T14:00 02:00",
        "2026-01-02 14:00:00 0200",
        "2026-01-02T10:00:00-02:00",
        "2026-01-02T12:00:00",
        "2026-01-02 12:00",
        " 2026-01-02T12:00:00Z ",
    ],
)
def test_one_instant(text: str) -> None:
    assert DeleteMessageQuery.model_validate({"timestamp": text}).timestamp == NOON


@pytest.mark.parametrize(
    "text", ["", "string", "2026-13-01T00:00:00Z", "12:00", "0001-01-01T00:00:00 10:00", "1e999"]
)
def test_no_instant(text: str) -> None:
    with pytest.raises(ValidationError):
        DeleteMessageQuery.model_validate({"timestamp": text})
