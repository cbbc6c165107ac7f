"""Polling that does not hurt: `Prefer: wait=N` (RFC 7240), entity tags (RFC 9110 §13)."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

from shared.turn.model import Turn

MAX_WAIT_S: Final = 60
RETRY_AFTER_S: Final = 1
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?=$|[,;\s])", re.IGNORECASE)


def preferred_wait_s(request: Request) -> int | None:
    """Seconds the client prefers to wait, at most `MAX_WAIT_S`; None when it does not say."""
    match = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    return min(int(match[1]), MAX_WAIT_S) if match else None


def entity_tag(turn: Turn) -> str:
    """Changes whenever something a client can see of the turn changes."""
    return f'"{turn.attempt}-{turn.status}-{int(turn.updated_at.timestamp() * 1_000_000):x}"'


def matches(request: Request, tag: str) -> bool:
    """Whether the client already has the version `tag` names (weak comparison)."""
    sent = ", ".join(request.headers.getlist("if-none-match"))
    tags = {part.strip().removeprefix("W/") for part in sent.split(",")}
    return tag in tags or "*" in tags


def turn_headers(turn: Turn, waited_s: int | None) -> dict[str, str]:
    """Headers of a response that shows a turn."""
    headers = {"etag": entity_tag(turn), "vary": "Prefer", "cache-control": "no-cache"}
    if not turn.is_terminal:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if waited_s is not None:
        headers["preference-applied"] = f"wait={waited_s}"
    return headers
