"""What time it is, where the user is or anywhere else."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import Field, JsonValue

from shared.agents.tool_names import CURRENT_TIME
from worker.tools.base import Arguments, Tool, ToolContext, ToolFailed


class TimeArguments(Arguments):
    timezone: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="IANA name such as America/Denver; by default the user's",
    )


class CurrentTime(Tool[TimeArguments]):
    name = CURRENT_TIME
    description = "The current date, time and day of the week in a time zone."
    parameters = TimeArguments
    is_deterministic = False

    async def run(self, context: ToolContext, arguments: TimeArguments) -> JsonValue:
        name = arguments.timezone or context.timezone
        return describe_time(context.now(), name)


def describe_time(now: datetime, timezone: str) -> dict[str, JsonValue]:
    """`{"time", "timezone", "weekday"}`, the time as RFC 3339 to the second.

    Raises:
        ToolFailed: there is no such zone.
    """
    try:
        local = now.astimezone(ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):
        raise ToolFailed("There is no such time zone; use an IANA name") from None
    return {
        "time": local.isoformat(timespec="seconds"),
        "timezone": timezone,
        "weekday": f"{local:%A}",
    }
