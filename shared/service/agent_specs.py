"""Agent specs of a tenant: list, create, read, change, delete, and which one is the default.

A spec runs in the private threads of whoever gave it to one, and the default in those of all: it is
changed by who made it, the default one by administrators alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.agents.default import DEFAULT_MARKDOWN
from shared.agents.spec import (
    MARKDOWN_LOC,
    SLUG,
    AgentSpec,
    SpecMode,
    parse_agent_spec,
)
from shared.agents.tool_names import HTTP_REQUEST, MCP_PREFIX, TOOL_NAMES, mcp_server_named
from shared.errors import (
    AgentSpecInUse,
    AgentSpecNotFound,
    Forbidden,
    InvalidRequest,
    SlugTaken,
    TooManyVersions,
)
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.tenant import Owner
from shared.postgres.transaction import Transaction
from shared.settings import Settings
from shared.turn.model import Principal

MAX_VERSIONS: Final = 1000
"""Of a spec. All are kept, for a turn runs with the one it was accepted with."""
_PER_DEPLOYMENT: Final = "is not enabled in this deployment"


@dataclass(frozen=True, slots=True)
class AgentCatalogue:
    """What a deployment lets specs name."""

    runs_model: Callable[[str], bool]
    tools: frozenset[str]


def agent_catalogue(settings: Settings) -> AgentCatalogue:
    """The catalogue of a deployment."""
    off = set() if settings.tool_http_request else {HTTP_REQUEST}
    return AgentCatalogue(settings.runs_model, frozenset(TOOL_NAMES) - off)


class AgentSpecService:
    """Rows come as records, with the newest version's markdown and frontmatter."""

    def __init__(self, database: Database, catalogue: AgentCatalogue) -> None:
        self._database = database
        self._catalogue = catalogue

    async def list_specs(
        self, principal: Principal, *, mode: SpecMode | None, limit: int, offset: int
    ) -> tuple[list[asyncpg.Record], int]:
        """A page of the tenant's specs by slug, and how many there are in all."""
        tenant_id = principal.tenant_id

        async def read(transaction: Transaction) -> tuple[list[asyncpg.Record], int]:
            await _seed_default(transaction, tenant_id)
            rows = await transaction.fetch_many("list_agent_specs", tenant_id, mode, limit, offset)
            counted = await transaction.fetch_one("count_agent_specs", tenant_id, mode)
            return rows, 0 if counted is None else counted["total"]

        return await self._database.for_tenant(principal).run_in_transaction(read)

    async def get(self, principal: Principal, spec_id: UUID) -> asyncpg.Record:
        """One spec.

        Raises:
            AgentSpecNotFound: unknown, deleted or another tenant's.
        """
        return _found(
            await self._database.for_tenant(principal).fetch_one(
                "get_agent_spec", spec_id, principal.tenant_id
            )
        )

    async def create(self, principal: Principal, markdown: str) -> asyncpg.Record:
        """A new spec, version 1.

        Raises:
            InvalidRequest: the markdown is no spec that this tenant and deployment can use.
            SlugTaken: another spec of the tenant has its slug.
        """
        spec, _ = parse_agent_spec(markdown)
        self._check_deployment(spec)

        async def write(transaction: Transaction) -> asyncpg.Record:
            await _seed_default(transaction, principal.tenant_id)
            await _check_mcp_servers(transaction, principal, spec)
            await _check_sub_agents(transaction, principal, spec)
            who = {"tenant_id": principal.tenant_id, "user_id": principal.user_id}
            return await _add(transaction, markdown, **who, is_default=False)

        return await self._run(principal, spec, write)

    async def update(
        self,
        principal: Principal,
        spec_id: UUID,
        *,
        markdown: str | None,
        make_default: bool,
    ) -> asyncpg.Record:
        """Writes a new version where the markdown differs, and moves the default where asked.

        Turns that were accepted before run on with the version of their time.

        Raises:
            AgentSpecNotFound: unknown, deleted or another tenant's.
            Forbidden: the caller has not made it, or it is or becomes the default.
            TooManyVersions: it has as many as it may.
            InvalidRequest: as `create`, or a sub-agent would be the tenant's default.
            SlugTaken: as `create`.
        """
        parsed = None if markdown is None else parse_agent_spec(markdown)
        if parsed is not None:
            self._check_deployment(parsed[0])

        async def write(transaction: Transaction) -> asyncpg.Record:
            tenant_id = principal.tenant_id
            if make_default:
                await transaction.fetch_one("lock_agent_specs", tenant_id)
            locked = _found(await transaction.fetch_one("lock_agent_spec", spec_id, tenant_id))
            is_for_all = locked["is_default"] or make_default
            await _require_leave(transaction, principal, locked["created_by"], is_for_all)
            row = _found(await transaction.fetch_one("get_agent_spec", spec_id, tenant_id))
            mode = row["frontmatter"]["mode"]
            if parsed is not None and markdown is not None and markdown != row["markdown"]:
                if locked["version"] >= MAX_VERSIONS:
                    raise TooManyVersions(MAX_VERSIONS)
                spec, head = parsed
                mode = spec.frontmatter.mode
                if locked["is_default"]:
                    _require_primary(mode, (*MARKDOWN_LOC, "mode"))
                await _check_mcp_servers(transaction, principal, spec)
                await _check_sub_agents(transaction, principal, spec)
                await transaction.fetch_one(
                    "add_agent_spec_version",
                    spec_id,
                    tenant_id,
                    spec.frontmatter.slug,
                    mode,
                    spec.frontmatter.model,
                    principal.user_id,
                    markdown,
                    head,
                    spec.instructions,
                )
            if make_default and not locked["is_default"]:
                _require_primary(mode, ("body", "isDefault"))
                await transaction.fetch_many("clear_default_agent", tenant_id)
                await transaction.fetch_one(
                    "set_default_agent", spec_id, tenant_id, principal.user_id
                )
            return _found(await transaction.fetch_one("get_agent_spec", spec_id, tenant_id))

        return await self._run(principal, None if parsed is None else parsed[0], write)

    async def delete(self, principal: Principal, spec_id: UUID) -> None:
        """Hides a spec. Threads that name it go on with the tenant's default.

        Raises:
            AgentSpecNotFound: unknown, deleted or another tenant's.
            Forbidden: neither has the caller made it, nor are they an administrator.
            AgentSpecInUse: it is the tenant's default.
        """

        async def hide(transaction: Transaction) -> None:
            locked = _found(
                await transaction.fetch_one("lock_agent_spec", spec_id, principal.tenant_id)
            )
            await _require_leave(transaction, principal, locked["created_by"], locked["is_default"])
            if locked["is_default"]:
                raise AgentSpecInUse
            await transaction.fetch_one(
                "delete_agent_spec", spec_id, principal.tenant_id, principal.user_id
            )

        await self._database.for_tenant(principal).run_in_transaction(hide)

    async def require_entry_point(self, principal: Principal, spec_id: str) -> UUID:
        """The id of a spec that a thread may have.

        Raises:
            AgentSpecNotFound: no id at all, unknown, deleted or another tenant's.
            InvalidRequest: a sub-agent, which only other agents call.
        """
        wanted = _as_id(spec_id)
        if wanted is None:
            raise AgentSpecNotFound
        row = _found(
            await self._database.for_tenant(principal).fetch_one(
                "find_agent_spec_mode", wanted, principal.tenant_id
            )
        )
        _require_primary(row["mode"], ("body", "agentSpecId"))
        return wanted

    async def find(self, principal: Principal, name: str) -> tuple[UUID, str]:
        """Id and mode of the spec that an id or a slug names.

        Raises:
            AgentSpecNotFound: neither of both, unknown, deleted or another tenant's.
        """
        spec_id = _as_id(name)

        async def read(transaction: Transaction) -> asyncpg.Record:
            row = None
            if spec_id is not None:
                row = await transaction.fetch_one(
                    "find_agent_spec_mode", spec_id, principal.tenant_id
                )
            if row is None and SLUG.fullmatch(name):
                await _seed_default(transaction, principal.tenant_id)
                row = await transaction.fetch_one("find_agent_by_slug", principal.tenant_id, name)
            return _found(row)

        row = await self._database.for_tenant(principal).run_in_transaction(read)
        return row["id"], row["mode"]

    async def find_primary(self, principal: Principal, slug: str) -> UUID | None:
        """The id of the spec of this slug; None: there is none that may be asked."""
        row = await self._database.for_tenant(principal).fetch_one(
            "find_agent_by_slug", principal.tenant_id, slug
        )
        return None if row is None or row["mode"] != "primary" else row["id"]

    async def roll_back(self, principal: Principal, spec_id: UUID) -> asyncpg.Record:
        """Writes the version before the newest once more, as the newest.

        Raises:
            AgentSpecNotFound, Forbidden, TooManyVersions, SlugTaken: as `update`.
            InvalidRequest: there is no version before, or it no longer is a spec that can be used.
        """
        row = await self.get(principal, spec_id)
        if row["version"] == 1:
            raise InvalidRequest(("path", "id"), "There is no earlier version", "first_version")
        before = _found(
            await self._database.for_tenant(principal).fetch_one(
                "get_agent_markdown", spec_id, principal.tenant_id, row["version"] - 1
            )
        )
        return await self.update(
            principal, spec_id, markdown=before["markdown"], make_default=False
        )

    async def _run(
        self,
        principal: Principal,
        spec: AgentSpec | None,
        write: Callable[[Transaction], Any],
    ) -> asyncpg.Record:
        try:
            row: asyncpg.Record = await self._database.for_tenant(principal).run_in_transaction(
                write
            )
        except asyncpg.UniqueViolationError:
            raise SlugTaken(spec.frontmatter.slug if spec else "") from None
        return row

    def _check_deployment(self, spec: AgentSpec) -> None:
        head = spec.frontmatter
        if head.model is not None and not self._catalogue.runs_model(head.model):
            msg = "This deployment cannot run the model"
            raise InvalidRequest((*MARKDOWN_LOC, "model"), msg, "unknown_model")
        for index, name in enumerate(head.tools):
            if name not in self._catalogue.tools and mcp_server_named(name) is None:
                raise InvalidRequest(
                    (*MARKDOWN_LOC, "tools", index), f"{name} {_PER_DEPLOYMENT}", "unknown_tool"
                )


async def default_agent(database: Database, owner: Owner) -> UUID:
    """The tenant's default spec, made by whoever asks first."""

    async def work(transaction: Transaction) -> UUID:
        await _seed_default(transaction, owner.tenant_id)
        row = await transaction.fetch_one("find_default_agent", owner.tenant_id)
        spec_id: UUID = _found(row)["id"]
        return spec_id

    return await database.for_tenant(owner).run_in_transaction(work)


async def _seed_default(transaction: Transaction, tenant_id: UUID) -> None:
    """Writes the tenant's first spec down, unless it has a default already."""
    if await transaction.fetch_one("find_default_agent", tenant_id) is not None:
        return
    await transaction.fetch_one("lock_agent_specs", tenant_id)
    if await transaction.fetch_one("find_default_agent", tenant_id) is not None:
        return
    await _add(transaction, DEFAULT_MARKDOWN, tenant_id=tenant_id, user_id=None, is_default=True)


async def _add(
    transaction: Transaction,
    markdown: str,
    *,
    tenant_id: UUID,
    user_id: UUID | None,
    is_default: bool,
) -> asyncpg.Record:
    spec, head = parse_agent_spec(markdown)
    frontmatter = spec.frontmatter
    return _found(
        await transaction.fetch_one(
            "add_agent_spec",
            new_id(),
            tenant_id,
            frontmatter.slug,
            frontmatter.mode,
            frontmatter.model,
            is_default,
            user_id,
            markdown,
            head,
            spec.instructions,
        )
    )


async def _require_leave(
    transaction: Transaction, principal: Principal, made_by: UUID | None, is_for_all: bool
) -> None:
    if made_by == principal.user_id and not is_for_all:
        return
    row = await transaction.fetch_one("is_admin", principal.tenant_id, principal.user_id)
    if row is not None and row["is_admin"]:
        return
    if is_for_all:
        raise Forbidden("Only administrators may change the default agent")
    raise Forbidden("Only who made an agent spec, and administrators, may change it")


async def _check_mcp_servers(
    transaction: Transaction, principal: Principal, spec: AgentSpec
) -> None:
    wanted = spec.mcp_servers
    if not wanted:
        return
    rows = await transaction.fetch_many("find_mcp_server_names", principal.tenant_id, wanted)
    known = {MCP_PREFIX + row["name"] for row in rows}
    for index, tool in enumerate(spec.frontmatter.tools):
        if tool not in known and mcp_server_named(tool) is not None:
            loc = (*MARKDOWN_LOC, "tools", index)
            raise InvalidRequest(loc, "There is no MCP server with this name", "unknown_tool")


async def _check_sub_agents(
    transaction: Transaction, principal: Principal, spec: AgentSpec
) -> None:
    wanted = spec.frontmatter.sub_agents
    if not wanted:
        return
    rows = await transaction.fetch_many("find_agent_slugs", principal.tenant_id, wanted)
    modes = {row["slug"]: row["mode"] for row in rows}
    for index, slug in enumerate(wanted):
        loc = (*MARKDOWN_LOC, "sub_agents", index)
        if slug not in modes:
            raise InvalidRequest(loc, "There is no agent spec with this slug", "unknown_agent")
        if modes[slug] != "subagent":
            raise InvalidRequest(loc, "Its mode is not subagent", "unknown_agent")


def _require_primary(mode: str, loc: tuple[str | int, ...]) -> None:
    if mode != "primary":
        raise InvalidRequest(loc, "A sub-agent cannot be an entry point", "agent_mode")


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def _found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AgentSpecNotFound
    return row
