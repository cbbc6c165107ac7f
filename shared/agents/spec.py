"""The agent spec: markdown whose YAML head says what an agent may use; its body instructs it.

    ---
    name: Analyst
    slug: analyst
    mode: primary
    model: openai:gpt-5
    tools: [calculator, read_attachment]
    permissions: {max_cost_per_run: 0.25, require_approval: [http_request]}
    ---
    You answer questions about the attached tables.

Pure: models, enabled tools, MCP servers and sub-agents, which depend on who runs it, are the
service's to check.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from shared.agents.tool_names import TOOL_NAMES, mcp_server_named
from shared.agents.yaml_head import YamlRefused, dump_yaml_head, load_yaml_head
from shared.errors import InvalidRequest

MAX_MARKDOWN_CHARS: Final = 65_536
MAX_INSTRUCTIONS_CHARS: Final = 32_768
SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
MARKDOWN_LOC: Final = ("body", "markdown")
_FENCE: Final = re.compile(r"---[ \t]*\n(?P<head>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)

SpecMode = Literal["primary", "subagent"]
ToolName = Annotated[str, Field(max_length=64)]
Slug = Annotated[str, Field(max_length=64, pattern=rf"^{SLUG.pattern}$")]


def _unique(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("Each name may stand once")
    return values


def _money(value: Any) -> Any:
    """A number of YAML or a text of digits as a Decimal; floats by how they are written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", value):
        return Decimal(value)
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Permissions(_Part):
    """What a run of the agent may do."""

    max_cost_per_run: (
        Annotated[Decimal, BeforeValidator(_money), Field(gt=0, le=1_000_000)] | None
    ) = None
    """US dollars, of all model calls of one turn."""
    require_approval: Annotated[list[ToolName], AfterValidator(_unique)] = Field(
        default_factory=list, max_length=32
    )
    """Tools that a person has to allow, call by call."""


class ModelSettings(_Part):
    """Sampling; what a turn's own `settings` say goes first."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1, le=1_000_000)
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    seed: int | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        default=None, max_length=16
    )


class Frontmatter(_Part):
    """The head of a spec: `docs/agents.md`. Unknown keys are refused: a misspelt limit is none."""

    name: str = Field(min_length=1, max_length=100)
    slug: Slug
    mode: SpecMode
    type: str | None = Field(default=None, min_length=1, max_length=64)
    """A word of the tenant's own, by which chats can be listed; nothing else reads it."""
    description: str | None = Field(default=None, max_length=1000)
    model: str | None = Field(default=None, min_length=1, max_length=255)
    model_settings: ModelSettings = Field(default_factory=ModelSettings)
    tools: Annotated[list[ToolName], AfterValidator(_unique)] = Field(max_length=32)
    sub_agents: Annotated[list[Slug], AfterValidator(_unique)] = Field(
        default_factory=list, max_length=32
    )
    permissions: Permissions = Field(default_factory=Permissions)

    @model_validator(mode="after")
    def _approves_what_it_has(self) -> Frontmatter:
        foreign = set(self.permissions.require_approval) - set(self.tools)
        if foreign:
            names = ", ".join(sorted(foreign))
            raise ValueError(f"permissions.require_approval names what is not in tools: {names}")
        return self


class AgentSpec(BaseModel):
    """A spec as it is used."""

    model_config = ConfigDict(frozen=True)

    frontmatter: Frontmatter
    instructions: str

    @property
    def mcp_servers(self) -> list[str]:
        """Names of the servers whose tools it has, in its order."""
        named = map(mcp_server_named, self.frontmatter.tools)
        return [name for name in named if name is not None]

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings under the names that `settings` of a turn uses."""
        chosen = self.frontmatter.model_settings.model_dump(exclude_none=True)
        return {_camel(name): value for name, value in chosen.items()}


def parse_agent_spec(markdown: str) -> tuple[AgentSpec, dict[str, Any]]:
    """The spec, and its frontmatter as it was written, in JSON values.

    Raises:
        InvalidRequest: at `body.markdown`, or at the key of the frontmatter below it.
    """
    if len(markdown) > MAX_MARKDOWN_CHARS:
        msg = f"String should have at most {MAX_MARKDOWN_CHARS} characters"
        raise InvalidRequest(MARKDOWN_LOC, msg, "string_too_long")
    text = markdown.replace("\r\n", "\n").removeprefix("\ufeff")
    match = _FENCE.match(text)
    if match is None:
        msg = "The markdown should begin with YAML between two lines of ---"
        raise InvalidRequest(MARKDOWN_LOC, msg, "frontmatter_missing")
    instructions = text[match.end() :].strip()
    if len(instructions) > MAX_INSTRUCTIONS_CHARS:
        msg = f"The instructions should have at most {MAX_INSTRUCTIONS_CHARS} characters"
        raise InvalidRequest(MARKDOWN_LOC, msg, "string_too_long")
    try:
        head = load_yaml_head(match["head"])
    except YamlRefused as error:
        msg = f"The frontmatter cannot be read: {error}"
        raise InvalidRequest(MARKDOWN_LOC, msg, "frontmatter_invalid") from None
    frontmatter = _validate(head)
    for index, name in enumerate(frontmatter.tools):
        if name not in TOOL_NAMES and mcp_server_named(name) is None:
            msg = f"There is no such tool. Tools: {', '.join(TOOL_NAMES)}, mcp:<server>"
            raise InvalidRequest((*MARKDOWN_LOC, "tools", index), msg, "unknown_tool")
    return AgentSpec(frontmatter=frontmatter, instructions=instructions), head


def instructions_of(markdown: str) -> str:
    """The body of a spec that was parsed before, without reading its head."""
    text = markdown.replace("\r\n", "\n").removeprefix("\ufeff")
    match = _FENCE.match(text)
    return "" if match is None else text[match.end() :].strip()


def write_agent_spec(head: dict[str, Any], instructions: str) -> str:
    """Markdown that `parse_agent_spec` reads as this head and these instructions."""
    return f"---\n{dump_yaml_head(head)}---\n{instructions}\n"


def stored_agent_spec(frontmatter: dict[str, Any], instructions: str) -> AgentSpec:
    """A spec that was accepted before, from its parts.

    Raises:
        InvalidRequest: an older or newer release wrote what this one cannot read.
    """
    return AgentSpec(frontmatter=_validate(frontmatter), instructions=instructions)


def _validate(head: dict[str, Any]) -> Frontmatter:
    try:
        return Frontmatter.model_validate(head)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise InvalidRequest((*MARKDOWN_LOC, *first["loc"]), first["msg"], first["type"]) from None


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))
