"""The body of a new turn: what `useChat` sends, or a message in short."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, ValidationError

from api.chat.file_parts import MAX_FILES, read_file_part
from api.chat.turn_schemas import ToolDecision
from api.limits import MAX_TEXT_CHARS
from api.request_headers import MAX_KEY_CHARS
from api.wire import Model as _Model
from api.wire import SmallObject, SystemPrompt
from shared.errors import InvalidRequest
from shared.turn.approval import Decision
from shared.turn.model import ConflictPolicy, NewFile

MAX_PARTS: Final = 10_000
_MESSAGES: Final = ("body", "messages")


class UIMessage(_Model):
    """A message of the AI SDK. Of the parts text is used, and files with `data:` URLs."""

    id: str = ""
    role: Literal["user", "assistant", "system"]
    parts: list[dict[str, Any]] = Field(default_factory=list)


class SubmitTurn(_Model):
    """A new user message: `messages` as `useChat` sends them, or `message`, or `content`.

    Of `messages` only the last counts: the thread's history is the server's. To answer a message
    anew (`regenerate-message`) none is needed: the thread has it.
    """

    messages: list[Any] | None = Field(
        default=None,
        json_schema_extra={"items": {"$ref": "#/components/schemas/UIMessage"}},
    )
    message: str | dict[str, Any] | None = None
    content: str | None = None
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = Field(
        default=None,
        max_length=MAX_KEY_CHARS,
        description="regenerate-message: a message of the exchange to answer anew; null: the last",
    )
    model_id: str | None = Field(default=None, min_length=1, max_length=255)
    settings: SmallObject = Field(default_factory=dict)
    system_prompt: SystemPrompt | None = None
    concurrency_key: str | None = Field(default=None, min_length=1, max_length=MAX_KEY_CHARS)
    idempotency_key: str | None = None
    on_conflict: ConflictPolicy = ConflictPolicy.ENQUEUE

    def approval_responses(self) -> list[Decision] | None:
        """Decisions on tool calls that the last message brings; None when it is not such a one.

        `useChat` sends the assistant's message again, with parts in state `approval-responded`.

        Raises:
            InvalidRequest: a part is not what AI SDK 6 makes.
        """
        last = self.messages[-1] if self.messages else None
        is_answer = isinstance(last, dict) and last.get("role") == "assistant"
        if self.trigger != "submit-message" or not isinstance(last, dict) or not is_answer:
            return None
        parts = last.get("parts")
        if not isinstance(parts, list):
            return None
        loc = (*_MESSAGES, len(self.messages or ()) - 1, "parts")
        decisions = [
            _read_response(part, (*loc, index))
            for index, part in enumerate(parts[:MAX_PARTS])
            if isinstance(part, dict) and part.get("state") == "approval-responded"
        ]
        return decisions or None

    def user_message(self) -> UserMessage:
        """What the user said and brought along.

        Raises:
            InvalidRequest: nothing usable, or something that would have to be dropped.
        """
        if self.messages:
            loc: tuple[str | int, ...] = (*_MESSAGES, len(self.messages) - 1)
            said = _read_message(self.messages[-1], loc)
        elif isinstance(self.message, dict):
            loc = ("body", "message")
            said = _read_message(self.message, loc)
        else:
            loc = ("body", "content" if self.message is None else "message")
            said = UserMessage(self.message or self.content or "")
        if not said.text.strip():
            if not said.files:
                raise InvalidRequest(_MESSAGES, "A user message with text is required", "missing")
            names = ", ".join(file.name for file in said.files)
            said = said._replace(text=f"({names})")  # no provider takes an empty message
        if len(said.text) > MAX_TEXT_CHARS:
            msg = f"The text should have at most {MAX_TEXT_CHARS} characters"
            raise InvalidRequest(loc, msg, "string_too_long")
        return said


class UserMessage(NamedTuple):
    """The text of a message, the client's own id of it if it sent one, and its files."""

    text: str
    client_id: str | None = None
    files: tuple[NewFile, ...] = ()


def _read_response(part: dict[str, Any], loc: tuple[str | int, ...]) -> Decision:
    approval = part.get("approval")
    values = approval if isinstance(approval, dict) else {}
    try:
        return ToolDecision.model_validate(
            {
                "toolCallId": part.get("toolCallId"),
                "approved": values.get("approved"),
                "reason": values.get("reason"),
            }
        ).as_decision()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidRequest((*loc, *first["loc"]), first["msg"], first["type"]) from None


def _read_message(message: Any, loc: tuple[str | int, ...]) -> UserMessage:
    if not isinstance(message, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if message.get("role", "user") != "user":
        raise InvalidRequest(_MESSAGES, "The last message must be the user's", "value_error")
    message_id = message.get("id")
    known_id = message_id if isinstance(message_id, str) and message_id else None
    files: list[NewFile] = []
    text = _join_texts(message, loc, files)
    return UserMessage(text, known_id, tuple(files))


def _join_texts(message: dict[str, Any], loc: tuple[str | int, ...], files: list[NewFile]) -> str:
    parts = message.get("parts")
    if parts is None:  # as AI SDK v4 and many others write it
        content = message.get("content", "")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise InvalidRequest((*loc, "parts"), "Input should be a valid list", "list_type")
    texts = [_read_part(part, (*loc, "parts", index), files) for index, part in enumerate(parts)]
    return "\n".join(filter(None, texts))


def _read_part(part: Any, loc: tuple[str | int, ...], files: list[NewFile]) -> str:
    """The text of one part; a file goes to `files`, other parts carry nothing for the model."""
    if not isinstance(part, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if part.get("type") == "file":
        if len(files) == MAX_FILES:
            raise InvalidRequest(loc, f"A message takes at most {MAX_FILES} files", "too_long")
        files.append(read_file_part(part, loc))
    if part.get("type") != "text":
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest((*loc, "text"), "Input should be a valid string", "string_type")
    return text
