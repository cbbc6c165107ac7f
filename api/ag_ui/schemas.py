"""The body of a run: `RunAgentInput` of AG-UI 1.0, by the types of the package `ag-ui-protocol`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import FailFast, Field, StrictBool, ValidationError

from api.limits import (
    MAX_CALL_ID_CHARS,
    MAX_DECISIONS,
    MAX_PROMPT_CHARS,
    MAX_REASON_CHARS,
    MAX_TEXT_CHARS,
)
from api.problems import fields_of
from api.request_headers import MAX_KEY_CHARS
from api.wire import Model, SmallObject
from shared.errors import InvalidRequest
from shared.turn.approval import Decision

_MESSAGES: Final = ("body", "messages")


class ContextEntry(Model):
    """Something the model is told beside the conversation."""

    description: str
    value: str


class ResumeEntry(Model):
    """The answer to an interrupt: `resolved` with a payload, or `cancelled`, which denies."""

    interrupt_id: str = Field(min_length=1, max_length=MAX_CALL_ID_CHARS)
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class Payload(Model):
    approved: StrictBool
    reason: str | None = Field(default=None, max_length=MAX_REASON_CHARS)


class ForwardedProps(Model):
    """What this product reads of `forwardedProps`."""

    model_id: str | None = Field(default=None, min_length=1, max_length=255)
    settings: SmallObject = Field(default_factory=dict)


class RunAgentInput(Model):
    """A run. The history is the server's own: of `messages` the last one is read.

    `state` and `tools` are the frontend's; nothing of them reaches the agent.
    """

    thread_id: str = Field(min_length=1, max_length=MAX_KEY_CHARS)
    run_id: str = Field(min_length=1, max_length=MAX_KEY_CHARS)
    messages: Annotated[list[dict[str, Any]], FailFast()] = Field(default_factory=list)
    context: list[ContextEntry] | None = Field(default=None, max_length=100)
    forwarded_props: Any = None
    resume: list[ResumeEntry] | None = Field(default=None, max_length=MAX_DECISIONS)

    def props(self) -> ForwardedProps:
        """What is forwarded to us; other shapes are meant for others."""
        if not isinstance(self.forwarded_props, dict):
            return ForwardedProps()
        try:
            return ForwardedProps.model_validate(self.forwarded_props)
        except ValidationError as error:
            raise _first_of(error, ("body", "forwardedProps")) from None

    def instructions(self) -> str | None:
        """The context as a text for the model.

        Raises:
            InvalidRequest: it is too long.
        """
        if not self.context:
            return None
        lines = [f"- {entry.description}: {entry.value}" for entry in self.context]
        text = "\n".join(["Context of the application:", *lines])
        if len(text) > MAX_PROMPT_CHARS:
            msg = f"The context should have at most {MAX_PROMPT_CHARS} characters"
            raise InvalidRequest(("body", "context"), msg, "string_too_long")
        return text

    def decisions(self) -> list[Decision]:
        """What `resume` says of tool calls.

        Raises:
            InvalidRequest: a payload is not what the interrupt's schema asks for.
        """
        return [
            _read_decision(entry, ("body", "resume", index))
            for index, entry in enumerate(self.resume or ())
        ]

    def user_text(self) -> str:
        """What the user says.

        Raises:
            InvalidRequest: the last message is not the user's, or has no text.
        """
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "user":
            raise InvalidRequest(_MESSAGES, "The last message must be the user's", "value_error")
        loc = (*_MESSAGES, len(self.messages) - 1, "content")
        text = _read_content(last.get("content"), loc)
        if not text.strip():
            raise InvalidRequest(loc, "A user message with text is required", "missing")
        if len(text) > MAX_TEXT_CHARS:
            msg = f"The text should have at most {MAX_TEXT_CHARS} characters"
            raise InvalidRequest(loc, msg, "string_too_long")
        return text


def _read_content(content: Any, loc: tuple[str | int, ...]) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(loc, "Input should be a string or a list of parts", "string_type")
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(text, str):
            msg = "Only parts of text are taken; files are attached to the thread"
            raise InvalidRequest((*loc, index), msg, "value_error")
        texts.append(text)
    return "\n".join(texts)


def _read_decision(entry: ResumeEntry, loc: tuple[str | int, ...]) -> Decision:
    if entry.status == "cancelled":
        return Decision(entry.interrupt_id, approved=False)
    try:
        payload = Payload.model_validate(entry.payload)
    except ValidationError as error:
        raise _first_of(error, (*loc, "payload")) from None
    return Decision(entry.interrupt_id, payload.approved, payload.reason or None)


def _first_of(error: ValidationError, place: tuple[str | int, ...]) -> InvalidRequest:
    """The first of pydantic's errors, under `place`."""
    first = fields_of(error, "body").items[0]
    return InvalidRequest((*place, *first["loc"][1:]), first["msg"], first["type"])
