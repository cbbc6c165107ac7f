"""What a chat request may say, and what of it is wrong: one validator for chats and interactions.

The parameters are those of the Zylon surface; what this deployment cannot do is refused or warned
of, and unknown members and blocks are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.problems import InvalidFields
from shared.turn.text import storable_json

MAX_MESSAGES: Final = 1000
MAX_BLOCKS: Final = 2000
"""Of all messages together."""
MAX_TOOLS: Final = 128
_SAMPLING: Final = {
    "max_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
"""Parameters, and the settings of a turn that they are."""
_POSITIVE: Final = frozenset({"max_tokens", "top_k"})
_UNSIGNED: Final = frozenset({"temperature", "presence_penalty", "frequency_penalty"})
_WITHOUT_EFFECT: Final = ("min_p", "repetition_penalty", "thinking", "tool_context", "priority")
_SPOKEN: Final = frozenset({"text", "tool_use", "tool_result"})
_FILES: Final = frozenset({"image", "audio", "binary", "file"})
_SILENT: Final = frozenset({"thinking", "source", "tldr"})
"""Blocks that are part of an answer, and nothing a model is told again."""
Problem = tuple[tuple[str | int, ...], str]
"""Where something is wrong, and what."""


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _few_blocks(messages: Any) -> Any:
    """Counts before anything is made of them."""
    if not isinstance(messages, list):
        return messages
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    if sum(len(content) for content in contents if isinstance(content, list)) > MAX_BLOCKS:
        raise ValueError(f"Messages should have at most {MAX_BLOCKS} content blocks in all")
    return messages


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class ZylonContentBlock(_Strict):
    """A part of a message. Blocks of unknown types are passed over."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class ZylonChatMessage(_Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[list[ZylonContentBlock], BeforeValidator(_as_blocks)]


class ZylonToolSpec(_Strict):
    name: str


class ZylonToolChoice(_Strict):
    type: str | None = None
    name: str | None = None


class ZylonResponseFormat(_Strict):
    type: Literal["text", "json_schema"] = "text"


class ZylonSystemPrompt(_Strict):
    text: str | None = None
    use_default_prompt: Any = None
    citations: Any = None


def _as_system(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class ZylonChatRequest(_Strict):
    """A chat: messages, of which the last is the user's, and how the model is to answer."""

    messages: Annotated[
        list[ZylonChatMessage], Field(max_length=MAX_MESSAGES), BeforeValidator(_few_blocks)
    ]
    stream: bool | None = False
    max_tokens: int | None = Field(default=None, le=10_000_000)
    temperature: _Finite | None = Field(default=None, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, le=10_000_000)
    min_p: float | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    repetition_penalty: float | None = None
    presence_penalty: _Finite | None = Field(default=None, le=2)
    frequency_penalty: _Finite | None = Field(default=None, le=2)
    tools: list[ZylonToolSpec] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ZylonToolChoice | str | None = None
    tool_context: Any = None
    mcp_servers: list[Any] | None = None
    response_format: ZylonResponseFormat | None = None
    system: Annotated[ZylonSystemPrompt | None, BeforeValidator(_as_system)] = None
    thinking: Any = None
    priority: Any = None

    def require_sound(self, *place: str) -> None:
        """Raises `InvalidFields` where something is wrong that the types do not tell."""
        found = list(problems_of(self))
        if found:
            raise InvalidFields(
                [
                    {"loc": ["body", *place, *loc], "msg": message, "type": "value_error"}
                    for loc, message in found
                ]
            )

    def settings(self) -> dict[str, Any]:
        """The turn's settings. Numbers that make no sense count as not given."""
        chosen = {}
        for name, setting in _SAMPLING.items():
            value = getattr(self, name)
            is_off = (name in _POSITIVE and value is not None and value <= 0) or (
                name in _UNSIGNED and value is not None and value < 0
            )
            if value is not None and not is_off:
                chosen[setting] = value
        return chosen

    def system_prompt(self) -> str | None:
        """What `system` and the system messages say."""
        texts = [self.system.text] if self.system is not None else []
        texts += [text_of(m.content) for m in self.messages if m.role == "system"]
        return "\n\n".join(filter(None, texts)) or None

    def prompt(self) -> str:
        """The text of the last message."""
        return text_of(self.messages[-1].content)

    def blocks(self) -> list[dict[str, Any]]:
        """The last message's content, as it was sent."""
        told: list[dict[str, Any]] = storable_json(
            [block.model_dump(exclude_unset=True) for block in self.messages[-1].content]
        )
        return told

    def preceding(self) -> list[dict[str, Any]]:
        """What the model is told before the last message: rows of a history, oldest first."""
        talk = [message for message in self.messages[:-1] if message.role != "system"]
        names = {
            block.id: block.name
            for message in talk
            for block in message.content
            if block.type == "tool_use" and block.id
        }
        rows: list[dict[str, Any]] = []
        open_calls: list[str] = []
        for message in talk:
            if message.role == "assistant":
                open_calls = [b.id for b in message.content if b.type == "tool_use" and b.id]
            rows += _rows(message, names, open_calls)
        return rows


def problems_of(chat: ZylonChatRequest) -> Iterator[Problem]:
    """What is wrong with a chat whose types are right."""
    if not chat.messages:
        yield ("messages",), "Messages cannot be empty"
        return
    for index, message in enumerate(chat.messages):
        for block_index, block in enumerate(message.content):
            place = ("messages", index, "content", block_index)
            yield from _problems_of_block(block, place)
        if not any(block.type in _SPOKEN | _SILENT | _FILES for block in message.content):
            yield ("messages", index, "content"), "Content cannot be empty"
    last = len(chat.messages) - 1
    if chat.messages[last].role != "user":
        why = "The last message must be the user's: no tool call waits for a client's result"
        yield ("messages", last, "role"), why
    elif not chat.prompt().strip() and chat.messages[last].content:
        yield ("messages", last, "content"), "The last message must have a text"
    yield from _problems_of_tools(chat)


def _problems_of_block(block: ZylonContentBlock, place: tuple[str | int, ...]) -> Iterator[Problem]:
    match block.type:
        case "text" if not block.text:
            yield (*place, "text"), "Text cannot be empty"
        case "tool_use" if not block.id or not block.name:
            yield place, "A tool_use block has an id and a name"
        case "tool_result" if not block.tool_use_id:
            yield (*place, "tool_use_id"), "Field required"
        case kind if kind in _FILES:
            yield (
                (*place, "type"),
                f"Blocks of type {kind} are not taken: upload the file to the project, and name it"
                " in artifact_ids",
            )
        case _:
            pass


def _problems_of_tools(chat: ZylonChatRequest) -> Iterator[Problem]:
    names = {tool.name for tool in chat.tools or ()}
    choice = chat.tool_choice
    if isinstance(choice, ZylonToolChoice) and choice.name is not None and choice.name not in names:
        yield ("tool_choice", "name"), "There is no tool with this name"
    wants_schema = chat.response_format is not None and chat.response_format.type == "json_schema"
    if wants_schema and names:
        yield ("response_format",), "A schema and tools cannot be wanted together"
    elif wants_schema:
        yield ("response_format", "type"), "json_schema is not supported"
    if names:
        yield ("tools",), "Tools of the request's own are not supported: agents have their own"
    if chat.mcp_servers:
        yield ("mcp_servers",), "MCP servers of the request's own are not supported"


def warnings_of(chat: ZylonChatRequest) -> list[str]:
    """What is right, and has no effect here."""
    found = [f"{name} has no effect" for name in _WITHOUT_EFFECT if getattr(chat, name) is not None]
    choice = chat.tool_choice
    kind = choice.type if isinstance(choice, ZylonToolChoice) else choice
    if kind not in (None, "auto"):
        found.append("tool_choice has no effect")
    for name in ("use_default_prompt", "citations"):
        if getattr(chat.system, name, None) is not None:
            found.append(f"system.{name} has no effect")
    for name in sorted(_POSITIVE | _UNSIGNED):
        value = getattr(chat, name)
        if value is not None and _SAMPLING[name] not in chat.settings():
            found.append(f"{name}: {value} counts as not given")
    return found


def text_of(blocks: Sequence[ZylonContentBlock]) -> str:
    """The text of a message."""
    return "\n".join(block.text for block in blocks if block.type == "text" and block.text)


def _rows(
    message: ZylonChatMessage, names: Mapping[str, str | None], open_calls: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows of a message; takes the calls it answers out of `open_calls`."""
    text = text_of(message.content)
    told = [block for block in message.content if block.type == "tool_result"]
    for block in told:
        if block.tool_use_id in open_calls:
            open_calls.remove(block.tool_use_id)
    if message.role == "tool" and text and not told and len(open_calls) == 1:
        told.append(
            ZylonContentBlock(type="tool_result", tool_use_id=open_calls.pop(), content=text)
        )
    results = [_result_part(block, names) for block in told]
    if results:
        yield _row("tool", "\n".join(part["content"] for part in results), "request", results)
    if message.role == "assistant":
        parts = [part for block in message.content if (part := _said_part(block)) is not None]
        if parts:
            yield _row("assistant", text, "response", parts)
    elif message.role == "user" and text:
        open_calls.clear()
        part = {"part_kind": "user-prompt", "content": text}
        yield _row("user", text, "request", [part])


def _row(role: str, content: str, kind: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    raw = storable_json({"kind": kind, "parts": parts})
    return {"role": role, "content": content, "raw_data": raw}


def _said_part(block: ZylonContentBlock) -> dict[str, Any] | None:
    match block.type:
        case "text" if block.text:
            return {"part_kind": "text", "content": block.text}
        case "tool_use":
            return {
                "part_kind": "tool-call",
                "tool_name": block.name,
                "args": block.input if isinstance(block.input, dict) else {},
                "tool_call_id": block.id,
            }
        case _:
            return None


def _result_part(block: ZylonContentBlock, names: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        "part_kind": "tool-return",
        "tool_name": names.get(block.tool_use_id or "") or "tool",
        "content": _result_text(block.content),
        "tool_call_id": block.tool_use_id,
        "outcome": "failed" if block.is_error else "success",
    }


def _result_text(content: Any) -> str:
    """The text of a result's blocks; of what has none, its JSON."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [b["text"] for b in blocks if isinstance(b, dict) and _is_text(b)]
    if texts:
        return "\n".join(texts)
    return "" if content in (None, []) else orjson.dumps(content).decode()


def _is_text(block: dict[str, Any]) -> bool:
    return block.get("type") == "text" and isinstance(block.get("text"), str)
