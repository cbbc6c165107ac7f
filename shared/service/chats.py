"""Chats of a team: threads that are shared and have an agent, and the key owner's own threads.

A secret key reaches all of them. A publishable one is in every browser, so it reaches only the
chats that were made with it, whoever owns it. Whoever reaches a chat acts as its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.errors import ThreadNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.agent_specs import default_agent
from shared.turn.model import CredentialKind, Principal

MAX_CHATS: Final = 1000
MAX_MESSAGES: Final = 1000
MAX_MESSAGE_BYTES: Final = 33_554_432
"""Of all messages of one answer together."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat, and whom those who reach it act as."""

    id: UUID
    owner: Principal
    agent_id: UUID
    end_user: str | None
    metadata: dict[str, Any]
    last_turn_id: UUID | None
    created_at: datetime
    updated_at: datetime
    untold_seq: int | None
    """The place of its newest turn, if that has ended and nobody was told."""


@dataclass(frozen=True, slots=True)
class ListedChat:
    """A chat as lists have it."""

    id: UUID
    agent_id: UUID
    end_user: str | None
    created_at: datetime


class ChatService:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        principal: Principal,
        *,
        agent_id: UUID,
        end_user: str | None,
        metadata: dict[str, Any],
    ) -> Chat:
        """A new chat with an agent that its own service has found."""
        row = await self._database.for_tenant(principal).fetch_one(
            "create_chat",
            new_id(),
            principal.tenant_id,
            principal.user_id,
            agent_id,
            end_user,
            metadata,
            _publishable_key(principal),
        )
        if row is None:  # an insert returns its row
            raise ThreadNotFound
        return _chat(principal, row, agent_id)

    async def get(self, principal: Principal, chat_id: UUID) -> Chat:
        """One chat.

        Raises:
            ThreadNotFound: unknown, deleted, or not in the key's reach.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_chat",
            chat_id,
            principal.tenant_id,
            principal.user_id,
            _publishable_key(principal),
        )
        if row is None:
            raise ThreadNotFound
        agent_id = row["agent_id"] or await default_agent(self._database, principal)
        return _chat(principal, row, agent_id)

    async def list_chats(
        self, principal: Principal, *, end_user: str | None, agent_type: str | None
    ) -> list[ListedChat]:
        """The newest `MAX_CHATS` by their last activity.

        `agent_type` is the `type` of the agent's spec, or its mode where it has none.
        """
        database = self._database.for_tenant(principal)
        tenant_id, user_id = principal.tenant_id, principal.user_id
        default_id: UUID | None = None
        agents: list[UUID] | None = None
        if agent_type is not None:
            found = await database.fetch_many("find_agents_of_type", tenant_id, agent_type)
            agents = [row["id"] for row in found]
            default_id = next((row["id"] for row in found if row["is_default"]), None)
            if not agents:
                return []
        key = _publishable_key(principal)
        if end_user is not None:
            rows = await database.fetch_many(
                "list_chats_of_end_user", tenant_id, user_id, key, end_user, agents, MAX_CHATS
            )
        elif key is not None:
            rows = await database.fetch_many("list_chats_of_key", tenant_id, key, agents, MAX_CHATS)
        else:
            rows = await database.fetch_many(
                "list_chats", tenant_id, user_id, agents, default_id is not None, MAX_CHATS
            )
        if any(row["agent_id"] is None for row in rows):
            fallback = default_id or await default_agent(self._database, principal)
            return [_listed(row, row["agent_id"] or fallback) for row in rows]
        return [_listed(row, row["agent_id"]) for row in rows]

    async def list_messages(self, chat: Chat) -> list[asyncpg.Record]:
        """What user and agent said, oldest first: the newest, as many as the limits allow."""
        return await self._database.for_tenant(chat.owner).fetch_many(
            "list_chat_messages",
            chat.owner.tenant_id,
            chat.id,
            MAX_MESSAGES,
            MAX_MESSAGE_BYTES,
        )

    async def find_same_question(self, chat: Chat, text: str) -> UUID | None:
        """The chat's newest turn, if it was asked this very text and nobody was told its end."""
        owner = chat.owner
        row = await self._database.for_tenant(owner).fetch_one(
            "find_same_question", chat.id, owner.tenant_id, owner.user_id, text
        )
        return None if row is None else row["id"]

    async def note_told(self, chat: Chat, accept_seq: int) -> None:
        """Somebody was told how this turn ended, and those before it: their words ask anew."""
        owner = chat.owner
        await self._database.for_tenant(owner).fetch_one(
            "note_told", chat.id, owner.tenant_id, owner.user_id, accept_seq
        )


def _publishable_key(principal: Principal) -> UUID | None:
    is_publishable = principal.kind is CredentialKind.KODEY_PUBLISHABLE
    return principal.key_id if is_publishable else None


def _listed(row: asyncpg.Record, agent_id: UUID) -> ListedChat:
    return ListedChat(row["id"], agent_id, row["end_user"], row["created_at"])


def _chat(principal: Principal, row: asyncpg.Record, agent_id: UUID) -> Chat:
    return Chat(
        row["id"],
        principal.acting_as(row["user_id"]),
        agent_id,
        row["end_user"],
        row["metadata"],
        row["last_turn_id"],
        row["created_at"],
        row["updated_at"],
        row["untold_seq"],
    )
