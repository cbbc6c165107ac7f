"""What every command works with: the database, the people it names, tables on the terminal."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from deploy.admin.settings import AdminSettings, CommandError
from shared.postgres.pool import Database
from shared.service import accounts

PLACE = "short name or id"


class Desk:
    """What the commands work with."""

    def __init__(self, database: Database, settings: AdminSettings) -> None:
        self.database = database
        self.settings = settings
        self._is_coloured = sys.stdout.isatty()

    async def tenant(self, name: str) -> Any:
        """The tenant of this short name or id."""
        row = await accounts.find_tenant(self.database, name)
        if row is None:
            raise CommandError(f"there is no tenant {name!r}; `tenant list` shows all")
        return row

    async def user(self, asked: argparse.Namespace) -> UUID:
        """The user who is asked for."""
        tenant = await self.tenant(asked.tenant)
        user_id = await accounts.find_user(self.database, tenant["id"], asked.email)
        if user_id is None:
            raise CommandError(f"{tenant['slug']} has no user {asked.email!r}")
        return user_id

    def table(self, head: list[str], rows: list[list[Any]]) -> None:
        """Columns as wide as they must be."""
        lines = [[cell(value) for value in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        for line in (head, *lines):
            text = "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
            is_head = line is head and self._is_coloured
            print(f"\033[1m{text}\033[0m" if is_head else text)


def cell(value: Any) -> str:
    """A value as people read it. Control characters would do things to their terminal."""
    if value is None:
        return "-"
    text = f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)
    return "".join(character if character.isprintable() else "�" for character in text)


def status_text(row: Any) -> str:
    return "disabled" if row["disabled_at"] else "active"


Command = Callable[[Desk, argparse.Namespace], Awaitable[None]]
Action = Callable[[str, str, Command], argparse.ArgumentParser]
"""Adds the parser of one action: its name, what it does, and the command."""
