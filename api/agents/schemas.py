"""Bodies of the agent specs' operations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.validation import QueryInt
from api.wire import Model, id_text
from shared.agents.spec import MAX_MARKDOWN_CHARS, SpecMode


class AgentSpec(Model):
    id: str
    name: str
    slug: str
    mode: SpecMode
    description: str | None
    markdown: str
    frontmatter: dict[str, Any] = Field(description="The YAML head as it was written")
    version: int = Field(description="Rises with each change; a turn keeps the one of its accept")
    is_default: bool = Field(description="Runs the threads that name no spec")
    resources: list[Any] = Field(description="Always empty")
    resource_preview: list[Any] = Field(description="Always empty")
    created_at: datetime
    created_by: str | None
    updated_at: datetime
    updated_by: str | None


class AgentSpecList(Model):
    specs: list[AgentSpec]
    total: int


class AgentSpecListQuery(Model):
    limit: QueryInt = Field(default=100, ge=1, le=100)
    offset: QueryInt = Field(default=0, ge=0, le=1_000_000_000)
    mode: SpecMode | None = None


class CreateAgentSpec(Model):
    markdown: str = Field(
        max_length=MAX_MARKDOWN_CHARS,
        description="YAML between two lines of ---, then the instructions",
    )


class UpdateAgentSpec(Model):
    """What is absent stays as it is."""

    markdown: str | None = Field(default=None, max_length=MAX_MARKDOWN_CHARS)
    is_default: bool | None = Field(
        default=None,
        strict=True,
        description="true: this spec becomes the default in place of the present one",
    )


def spec_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_agent_spec` as `AgentSpec` describes it."""
    head = row["frontmatter"]
    return {
        "id": str(row["id"]),
        "name": head["name"],
        "slug": head["slug"],
        "mode": head["mode"],
        "description": head.get("description"),
        "markdown": row["markdown"],
        "frontmatter": head,
        "version": row["version"],
        "isDefault": row["is_default"],
        "resources": [],
        "resourcePreview": [],
        "createdAt": row["created_at"],
        "createdBy": id_text(row["created_by"]),
        "updatedAt": row["updated_at"],
        "updatedBy": id_text(row["updated_by"]),
    }
