"""Whether a failed call to a provider is made again: the only layer that retries.

A call is repeated once at most, before anything of its answer was said, after a random pause, and
only while retries are a small part of all calls (docs/decisions/0009-one-layer-retries.md).
"""

from __future__ import annotations

import random
from typing import Final

PAUSE_MAX_S: Final = 0.5
_EARNED_PER_CALL: Final = 0.1
_SAVED_MAX: Final = 10.0


class RetryBudget:
    """One provider's retries in this process: 10, and one more for every ten first calls.

    When every call fails, a provider gets 1.1 times the calls it would get without retries.
    """

    def __init__(self) -> None:
        self._saved = _SAVED_MAX

    def earn(self) -> None:
        """Notes a first call."""
        self._saved = min(_SAVED_MAX, self._saved + _EARNED_PER_CALL)

    def spend(self) -> bool:
        """Whether a retry may be made; it counts as made then."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def pause_before_retry(error: Exception, left_s: float) -> float | None:
    """Seconds to wait before the call is made again; None: it would not help, or not in time.

    `left_s` is what is left until the first token is due. A provider's own `Retry-After` counts
    from now, with the random pause on top, so that many turns do not return at one moment.
    """
    from pydantic_ai import exceptions as ai

    if not _may_pass(error):
        return None
    asked_s = error.retry_after if isinstance(error, ai.ModelAPIError) else None
    pause_s = max(0.0, asked_s or 0.0) + random.uniform(0.0, PAUSE_MAX_S)  # noqa: S311 - no secret
    return pause_s if pause_s < left_s else None


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from pydantic_ai import exceptions as ai

    match error:
        case ai.ModelTimeoutError():
            return error.phase == "connect"
        case (
            ai.ModelRateLimitError()
            | ai.ModelUnavailableError()
            | ai.ModelServerError()
            | ai.ModelConnectionError()
        ):
            return True
        case _:
            return False
