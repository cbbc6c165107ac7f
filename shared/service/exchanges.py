"""A turn and the message it answers as one thing: read, continued elsewhere, made to disappear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.errors import MessageNotFound, ThreadNotFound, TurnNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.cancel import CancelService
from shared.service.given_messages import add_given
from shared.service.hidden_messages import forget_hidden
from shared.turn.model import Given, Principal, Turn

MAX_COPIED: Final = 1000
"""Messages of a fork: no model is shown more of a thread (`history_max_messages`)."""


class Exchanges:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database, cancels: CancelService) -> None:
        self._database = database
        self._cancels = cancels

    async def question(self, principal: Principal, turn: Turn) -> asyncpg.Record:
        """The user's message that a turn answers.

        Raises:
            MessageNotFound: it was made to disappear.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_message", turn.input_message_id, turn.tenant_id, turn.thread_id
        )
        if row is None:
            raise MessageNotFound
        return row

    async def answer(self, turn: Turn) -> list[asyncpg.Record]:
        """What a turn has said, as far as it is stored: all of it at its end."""
        return await self._database.for_tenant(turn).fetch_many(
            "list_output_messages", turn.tenant_id, turn.id
        )

    async def list_given(
        self, principal: Principal, question: asyncpg.Record
    ) -> list[asyncpg.Record]:
        """Messages that no turn has made and that stand before a question, oldest first."""
        return await self._database.for_tenant(principal).fetch_many(
            "list_messages_of_no_turn",
            principal.tenant_id,
            question["thread_id"],
            question["seq"],
            MAX_COPIED,
        )

    async def begin(
        self,
        principal: Principal,
        *,
        metadata: dict[str, Any],
        given: Sequence[Given] = (),
        behind: Turn | None = None,
    ) -> UUID:
        """A new thread, with messages that are there before its first turn.

        `behind`: it begins with what that turn's thread says up to and with it: the newest
        `MAX_COPIED` messages, and what the thread tells its models; nothing that is attached.

        Raises:
            ThreadNotFound: the thread of `behind` was deleted.
        """
        tenant_id, user_id = principal.tenant_id, principal.user_id
        thread_id = new_id()

        async def work(transaction: Transaction) -> None:
            title = system_prompt = agent_spec_id = None
            if behind is not None:
                source = await transaction.fetch_one(
                    "get_thread", behind.thread_id, tenant_id, user_id
                )
                if source is None:
                    raise ThreadNotFound
                title, system_prompt = source["title"], source["system_prompt"]
                agent_spec_id = source["agent_spec_id"]
            await transaction.fetch_one(
                "create_thread",
                thread_id,
                tenant_id,
                user_id,
                title,
                system_prompt,
                metadata,
                agent_spec_id,
            )
            if behind is not None:
                place = (behind.thread_id, behind.accept_seq, thread_id, MAX_COPIED)
                await transaction.fetch_one("copy_exchanges", tenant_id, user_id, *place)
            if given:
                await add_given(transaction, principal, thread_id, given)

        await self._database.for_tenant(principal).run_in_transaction(work)
        return thread_id

    async def hide(self, principal: Principal, turn: Turn, *, with_thread: bool = False) -> None:
        """Cancels a turn if it is active, then hides its question and answer, also from models.

        Their attachments are detached. `with_thread`: also deletes the thread, in the same commit,
        if nothing but this exchange and what it brought along is in it.

        Raises:
            TurnNotFound: unknown, somebody else's, or gone already, alone or with its thread.
        """
        turn = await self._cancels.cancel(principal, turn.id)
        tenant_id, thread = principal.tenant_id, turn.thread_id
        whose = (thread, tenant_id, principal.user_id)

        async def work(transaction: Transaction) -> None:
            if await transaction.fetch_one("lock_thread", *whose) is None:
                raise TurnNotFound
            hidden = await transaction.fetch_one(
                "hide_exchange", tenant_id, thread, turn.accept_seq
            )
            if hidden is None:
                raise TurnNotFound
            asked_with = turn.input_message_id
            if with_thread and not await transaction.fetch_one(
                "find_later_message", tenant_id, thread, asked_with
            ):
                await transaction.fetch_one("delete_thread", *whose)
                return
            await forget_hidden(transaction, principal, thread, hidden["ids"])

        await self._database.for_tenant(principal).run_in_transaction(work)
