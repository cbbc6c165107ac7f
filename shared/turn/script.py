"""The language of `settings.script`: what the `scripted` model does. Pure; the API checks with it.

The order of a script is fixed: startDelayMs, reasoning, toolCalls, the approval, then the message's
deltas. Once its calls are decided, a script goes on behind its approval, after startDelayMs again.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from shared.errors import InvalidRequest

_MAX_DELTAS: Final = 1_000_000
_MAX_TEXT_CHARS: Final = 1_000_000
_MAX_MS: Final = 3_600_000
_MAX_LINGER_MS: Final = 60_000
"""Nothing else ends a run that ignores its cancel, and it holds a place of its worker."""

_Count = Annotated[int, Field(ge=0, le=_MAX_DELTAS)]
_Milliseconds = Annotated[float, Field(ge=0, le=_MAX_MS, allow_inf_nan=False)]
_Linger = Annotated[float, Field(ge=0, le=_MAX_LINGER_MS, allow_inf_nan=False)]


class ScriptedToolCall(BaseModel):
    """One tool call with its outcome: `error` when the tool failed, else `result`.

    With neither, the turn's agent is asked for the tool of this name, which is really called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    args: dict[str, JsonValue] = Field(default_factory=dict)
    result: JsonValue = None
    error: str | None = Field(default=None, min_length=1, max_length=10_000)

    @property
    def is_real(self) -> bool:
        """Whether the tool is to be called: the script gives no outcome."""
        return not self.model_fields_set & {"result", "error"}

    @model_validator(mode="after")
    def _one_outcome(self) -> ScriptedToolCall:
        if self.error is not None and self.result is not None:
            raise ValueError("give either result or error, not both")
        return self


class ScriptedApproval(BaseModel):
    """Tool calls that somebody must approve; the outcome of a call is told when it is approved."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str | None = Field(default=None, max_length=_MAX_TEXT_CHARS)
    """Said before the calls."""
    calls: list[ScriptedToolCall] = Field(min_length=1, max_length=20)
    times: int = Field(default=1, ge=1, le=10)
    """How often all of this is done."""


class Script(BaseModel):
    """What one scripted turn does. Every field is optional; `{}` answers about the prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    deltas: _Count | None = None
    """How many message deltas: `w0 `, `w1 `, … or the words of `text`, over and over."""
    text: str | None = Field(default=None, max_length=_MAX_TEXT_CHARS)
    """Streamed word by word, each word with the white space behind it."""
    interval_ms: _Milliseconds = Field(default=20, alias="intervalMs")
    """Between the starts of two deltas; 0 streams as fast as the consumer reads."""
    start_delay_ms: _Milliseconds = Field(default=0, alias="startDelayMs")
    reasoning: Annotated[str, Field(max_length=_MAX_TEXT_CHARS)] | _Count | None = None
    """A text to split into words, or how many deltas `r0 `, `r1 `, …"""
    tool_calls: list[ScriptedToolCall] = Field(
        default_factory=list, max_length=100, alias="toolCalls"
    )
    approval: ScriptedApproval | None = None
    fail_after: _Count | None = Field(default=None, alias="failAfter")
    """Fail behind this many message deltas; never when the message has fewer."""
    fail_with: Literal[
        "model_error",
        "rate_limited",
        "model_auth",
        "model_not_configured",
        "context_too_long",
        "timeout",
        "content_filter",
        "output_limit",
    ] = Field(default="model_error", alias="failWith")
    hang_after: _Count | None = Field(default=None, alias="hangAfter")
    """Stop behind this many message deltas, for `hangMs` or for ever."""
    hang_ms: _Milliseconds | None = Field(default=None, alias="hangMs")
    ignore_cancel_ms: _Linger = Field(default=0, alias="ignoreCancelMs")
    """How long a cancelled run lingers before it gives way: a provider that is slow to stop."""


def parse_script(settings: dict[str, Any]) -> Script:
    """The script of a turn's settings; the default script when there is none.

    Raises:
        InvalidRequest: at the first offending place, below `body.settings.script`.
    """
    script = settings.get("script")
    try:
        return Script.model_validate({} if script is None else script)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        loc = ("body", "settings", "script", *first["loc"])
        if first["type"] == "model_type":  # pydantic names our class in it
            raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type") from None
        raise InvalidRequest(loc, first["msg"], first["type"]) from None


def validate_script(settings: dict[str, Any]) -> None:
    """Checks `settings.script` without running it, so that a bad one is refused before accept.

    Raises:
        InvalidRequest: at the first offending place, below `body.settings.script`.
    """
    parse_script(settings)
