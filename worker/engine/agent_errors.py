"""pydantic-ai's errors as `TurnFailed`, in fixed sentences.

A provider's own text may hold keys, URLs or a stack trace; it stays in the cause, for the log.
"""

from __future__ import annotations

from typing import Final

from shared.errors import TurnFailed

_LLAMA_CPP_TOO_LONG: Final = "exceed_context_size_error"
"""What llama.cpp's server calls it; pydantic-ai knows the words of others."""


def turn_failure(error: Exception) -> TurnFailed | None:
    """What the turn's owner is told; None when `error` is none of pydantic-ai's."""
    from pydantic_ai import exceptions as ai

    # In order: the first class that fits decides.
    table: tuple[tuple[type[Exception], str, str], ...] = (
        (ai.ContentFilterError, "content_filter", "A content filter stopped the answer"),
        (ai.OutputTokenLimitExceeded, "output_limit", "The answer exceeds the token limit"),
        (ai.UsageLimitExceeded, "output_limit", "The turn used more than it may"),
        (ai.ModelContextWindowExceededError, "context_too_long", "The thread is too long"),
        (ai.ModelAuthenticationError, "model_auth", "The provider refused our credentials"),
        (ai.ModelQuotaExceededError, "rate_limited", "Our quota at the provider is used up"),
        (ai.ModelRateLimitError, "rate_limited", "The provider limits the rate of requests"),
        (ai.ModelOverloadedError, "rate_limited", "The provider is overloaded"),
        (ai.ModelNotFoundError, "model_error", "The provider does not know this model"),
        (ai.ModelRequestRejectedError, "model_error", "The provider refused the request"),
        (ai.ModelRequestTimeout, "timeout", "The model did not answer in time"),
        (ai.ModelTimeoutError, "timeout", "The provider did not answer in time"),
        (ai.RunTimedOut, "timeout", "The turn took longer than it may"),
        (ai.ModelConnectionError, "model_error", "The connection to the provider failed"),
        (ai.ModelUnavailableError, "model_error", "The provider is unavailable"),
        (ai.ModelServerError, "model_error", "The provider had an internal error"),
        (ai.UnexpectedModelBehavior, "model_error", "The model's answer cannot be used"),
        (ai.AgentRunError, "model_error", "The model failed"),
        (ai.UserError, "model_error", "The model cannot carry out this request"),
    )  # fmt: skip
    if getattr(error, "provider_error_type", None) == _LLAMA_CPP_TOO_LONG:
        return TurnFailed("context_too_long", _with_status("The thread is too long", error))
    for class_, code, message in table:
        if isinstance(error, class_):
            return TurnFailed(code, _with_status(message, error))
    return None


def _with_status(message: str, error: Exception) -> str:
    status = getattr(error, "status_code", None)
    return f"{message} (HTTP {status})" if isinstance(status, int) else message
