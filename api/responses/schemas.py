"""Bodies of the OpenAI Responses surface, snake_case inside and outside.

Specification: https://platform.openai.com/docs/api-reference/responses, by the types of the
`openai` package 3.52. What the product cannot do is refused by name, what it need not do ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.limits import MAX_CALL_ID_CHARS, MAX_PROMPT_CHARS, MAX_REASON_CHARS, MAX_TEXT_CHARS
from api.streams.responses_object import APPROVAL_PREFIX
from api.validation import QueryInt
from api.wire import SmallObject
from shared.errors import InvalidRequest
from shared.turn.approval import Decision
from shared.turn.model import Given

MAX_ITEMS: Final = 1000
_INPUT: Final = ("body", "input")
_ROLES: Final[dict[str, Literal["user", "assistant", "system"]]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
_TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Kinds of parts, and where their text is."""
_OWN: Final = {"reasoning", "mcp_call", "mcp_approval_request", "mcp_list_tools"}
"""Items of a response that a client may send again: of these nothing is told to the model."""


class Model(BaseModel):
    """A body: unknown members are ignored, and values are of their own types."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Query(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


def _check_metadata(value: dict[str, str]) -> dict[str, str]:
    if len(value) > 16:
        raise ValueError("Metadata should have at most 16 pairs")
    if any(len(name) > 64 or len(text) > 512 for name, text in value.items()):
        raise ValueError("Metadata should have keys of at most 64 characters, values of 512")
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_check_metadata)]


# -- requests


class ConversationParam(Model):
    id: str


class TextFormat(Model):
    type: str = "text"


class TextConfig(Model):
    format: TextFormat | None = None


class InputMessage(Model):
    """A message; of parts, texts are taken. Items of other kinds: see `Input`."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class CreateResponse(Model):
    """A request for a response."""

    input: Any = Field(
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"$ref": "#/components/schemas/InputMessage"}},
            ]
        }
    )
    model: str | None = Field(default=None, min_length=1, max_length=255)
    instructions: str | None = Field(default=None, max_length=MAX_PROMPT_CHARS)
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = Field(default=None, max_length=255)
    conversation: Any = Field(
        default=None,
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {"$ref": "#/components/schemas/ConversationParam"},
                {"type": "null"},
            ]
        },
    )
    metadata: Metadata | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    max_output_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    settings: SmallObject = Field(
        default_factory=dict, description="Settings of the turn, as the primary surface takes them"
    )
    text: TextConfig | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    top_logprobs: Any = None

    def conversation_id(self) -> str | None:
        """The conversation that is named, if one is.

        Raises:
            InvalidRequest: by anything but its id, or an object that has it.
        """
        named = self.conversation
        found = named.get("id") if isinstance(named, dict) else named
        if found is None and named is None:
            return None
        if not isinstance(found, str):
            loc = ("body", "conversation")
            raise InvalidRequest(loc, "Input should be an id or an object with one", "string_type")
        return found

    def require_supported(self) -> None:
        """Refuses what would have to be left out silently.

        Raises:
            InvalidRequest: `unsupported_parameter` or `unsupported_value`.
        """
        if self.tools:
            _refuse("tools", "Tools are those of the agent: they cannot be brought along")
        if self.tool_choice not in (None, "auto"):
            _refuse("tool_choice", "Only 'auto' is supported: tools are those of the agent")
        for name in ("prompt", "max_tool_calls", "top_logprobs"):
            if getattr(self, name):
                _refuse(name, "This parameter is not supported")
        wanted = self.text.format.type if self.text and self.text.format else "text"
        if wanted != "text":
            loc = ("body", "text", "format", "type")
            raise InvalidRequest(loc, "Only 'text' is supported", "unsupported_value")
        if self.store is False:
            msg = "Responses are always stored; delete them when they are not needed any more"
            raise InvalidRequest(("body", "store"), msg, "unsupported_value")
        if self.previous_response_id and self.conversation:
            msg = "Give either previous_response_id or conversation, not both"
            raise InvalidRequest(("body", "conversation"), msg)

    def read_input(self) -> Input:
        """What is said.

        Raises:
            InvalidRequest: something of it cannot be taken, or nothing is asked.
        """
        if isinstance(self.input, str):
            return Input((), _checked_text(self.input, _INPUT), ())
        if not isinstance(self.input, list):
            raise InvalidRequest(_INPUT, "Input should be a string or a list", "string_type")
        return read_items(self.input)


class Input(NamedTuple):
    """What a request says: messages that come before, the one to answer, decisions on calls."""

    given: tuple[Given, ...]
    text: str
    decisions: tuple[Decision, ...]


class CreateConversation(Model):
    metadata: Metadata | None = None
    items: list[Any] | None = Field(
        default=None,
        max_length=20,
        json_schema_extra={"items": {"$ref": "#/components/schemas/InputMessage"}},
    )


class UpdateConversation(Model):
    metadata: Metadata | None


class RetrieveQuery(Query):
    stream: bool = False
    starting_after: QueryInt | None = Field(default=None, ge=0, le=2**53)


class ItemsQuery(Query):
    after: str | None = Field(default=None, max_length=255)
    limit: QueryInt = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


def read_items(items: list[Any]) -> Input:
    """Items of input: the last message is the user's, or all are decisions on tool calls.

    Raises:
        InvalidRequest: otherwise, or an item is of a kind that cannot be taken.
    """
    given, decisions = read_given(items)
    if decisions:
        if given:
            msg = "Decisions on tool calls come alone: the response that asked for them goes on"
            raise InvalidRequest(_INPUT, msg)
        return Input((), "", tuple(decisions))
    if not given or given[-1].role != "user":
        raise InvalidRequest(_INPUT, "The last item should be a message of the user")
    text = _checked_text(given[-1].content, _INPUT)
    return Input(tuple(given[:-1]), text, ())


def read_given(
    items: list[Any], loc: tuple[str | int, ...] = _INPUT
) -> tuple[list[Given], list[Decision]]:
    """The messages among the items, and the decisions.

    Raises:
        InvalidRequest: an item is of another kind, or not as it should be.
    """
    if len(items) > MAX_ITEMS:
        raise InvalidRequest(loc, f"List should have at most {MAX_ITEMS} items", "too_long")
    given: list[Given] = []
    decisions: list[Decision] = []
    for index, item in enumerate(items):
        place = (*loc, index)
        if not isinstance(item, dict):
            raise InvalidRequest(place, "Input should be an object", "dict_type")
        match item.get("type", "message"):
            case "message":
                given.append(_read_message(item, place))
            case "mcp_approval_response":
                decisions.append(_read_decision(item, place))
            case str() as kind if kind in _OWN:
                continue
            case _:
                msg = "Items of this type are not supported"
                raise InvalidRequest((*place, "type"), msg, "unsupported_value")
    return given, decisions


def _read_message(item: dict[str, Any], loc: tuple[str | int, ...]) -> Given:
    role = _ROLES.get(str(item.get("role")))
    if role is None:
        expected = ", ".join(_ROLES)
        raise InvalidRequest((*loc, "role"), f"Input should be one of {expected}", "literal_error")
    content = item.get("content")
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [_read_part(part, (*loc, "content", index)) for index, part in enumerate(content)]
    else:
        msg = "Input should be a string or a list of parts"
        raise InvalidRequest((*loc, "content"), msg, "string_type")
    text = "\n".join(filter(None, texts))
    if len(text) > MAX_TEXT_CHARS:
        raise _too_long((*loc, "content"))
    return Given(role, text)


def _read_part(part: Any, loc: tuple[str | int, ...]) -> str:
    if not isinstance(part, dict):
        raise InvalidRequest(loc, "Input should be an object", "dict_type")
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXTS:
        msg = f"Parts of this type are not supported; those that are: {', '.join(_TEXTS)}"
        raise InvalidRequest((*loc, "type"), msg, "unsupported_value")
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise InvalidRequest((*loc, _TEXTS[kind]), "Input should be a string", "string_type")
    return text


def _read_decision(item: dict[str, Any], loc: tuple[str | int, ...]) -> Decision:
    request_id, approve, reason = (
        item.get(name) for name in ("approval_request_id", "approve", "reason")
    )
    if not isinstance(request_id, str) or not request_id.startswith(APPROVAL_PREFIX):
        msg = "Input should be the id of an approval request"
        raise InvalidRequest((*loc, "approval_request_id"), msg)
    if not isinstance(approve, bool):
        raise InvalidRequest((*loc, "approve"), "Input should be true or false", "bool_type")
    if reason is not None and not isinstance(reason, str):
        raise InvalidRequest((*loc, "reason"), "Input should be a string", "string_type")
    call_id = request_id.removeprefix(APPROVAL_PREFIX)[:MAX_CALL_ID_CHARS]
    return Decision(call_id, approve, (reason or "")[:MAX_REASON_CHARS] or None)


def _checked_text(text: str, loc: tuple[str | int, ...]) -> str:
    if not text.strip():
        raise InvalidRequest(loc, "A message with text is required", "missing")
    if len(text) > MAX_TEXT_CHARS:
        raise _too_long(loc)
    return text


def _too_long(loc: tuple[str | int, ...]) -> InvalidRequest:
    msg = f"The text should have at most {MAX_TEXT_CHARS} characters"
    return InvalidRequest(loc, msg, "string_too_long")


def _refuse(name: str, msg: str) -> None:
    raise InvalidRequest(("body", name), msg, "unsupported_parameter")


# -- responses


class ConversationRef(BaseModel):
    id: str


class ResponseObject(BaseModel):
    """A response: a turn of a conversation. Items of `output` are those of OpenAI's union."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
    background: bool
    completed_at: int | None
    conversation: ConversationRef
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | float | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: str
    usage: dict[str, Any] | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"]
    deleted: bool


class Conversation(BaseModel):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, Any]


class DeletedConversation(BaseModel):
    id: str
    object: Literal["conversation.deleted"]
    deleted: bool


class ItemList(BaseModel):
    """Items with their ids; pages go on `after` the last one."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def message_item(item_id: str, role: str, text: str) -> dict[str, Any]:
    """A stored message as an item of input or of a conversation."""
    part: dict[str, Any] = {"type": "input_text", "text": text}
    if role == "assistant":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [part],
    }


def item_list(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The envelope of a page."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
