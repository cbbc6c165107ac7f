"""`user`: people and backends inside a tenant."""

import argparse
import asyncio
import getpass
import sys

from deploy.admin.desk import PLACE, Action, Command, Desk, cell, status_text
from deploy.admin.settings import CommandError
from shared.service import accounts
from shared.service.passwords import MIN_CHARS, hash_password, new_password

ASK, GENERATE = "ask", "generate"
PASSWORD = (
    f"ask: read from the terminal or standard input, {MIN_CHARS} characters or more;"
    " generate: make one and print it"
)


def add_user_commands(action: Action) -> None:
    def named(verb: str, told: str, command: Command) -> argparse.ArgumentParser:
        found = action(verb, told, command)
        found.add_argument("tenant", help=PLACE)
        found.add_argument("email")
        return found

    create = named("create", "make a user", create_user)
    create.add_argument("--name", help="default: the address")
    create.add_argument("--subject", help="what the identity provider calls them")
    create.add_argument("--password", choices=(ASK, GENERATE), help=PASSWORD)
    action("list", "list a tenant's users", list_users).add_argument("tenant", help=PLACE)
    change = named("set-password", "set a password; ends all sessions", set_password)
    change.add_argument("--password", choices=(ASK, GENERATE), default=ASK, help=PASSWORD)
    named("set-subject", "say who this is for the identity provider", set_subject).add_argument(
        "subject"
    )
    named("set-admin", "let a user change what runs for all of the tenant", set_admin_state)
    named("unset-admin", "take that away again", set_admin_state)
    named("disable", "keep a user out, keep their data", set_user_state)
    named("enable", "let a user in again", set_user_state)


async def create_user(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    if await accounts.find_user(desk.database, tenant["id"], asked.email) is not None:
        raise CommandError(f"{tenant['slug']} has a user {asked.email!r} already")
    password = hashed = None
    if asked.password is not None:
        password, hashed = await read_password(asked)
    user_id = await accounts.create_user(
        desk.database, tenant["id"], asked.email, asked.name or asked.email
    )
    if asked.subject is not None:
        await accounts.set_subject(desk.database, user_id, asked.subject)
    if hashed is not None:
        await accounts.set_password(desk.database, user_id, hashed)
    print(f"user          {user_id}")
    if password is not None:
        print(f"password      {password}  (shown this once)")


async def list_users(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    rows = await accounts.list_users(desk.database, tenant["id"])
    desk.table(
        ["EMAIL", "NAME", "STATE", "ADMIN", "PASSWORD", "SUBJECT", "ID"],
        [
            [
                r["email"],
                r["name"],
                status_text(r),
                "yes" if r["is_admin"] else None,
                "yes" if r["has_password"] else None,
                r["subject"],
                r["id"],
            ]
            for r in rows
        ],
    )


async def set_password(desk: Desk, asked: argparse.Namespace) -> None:
    user_id = await desk.user(asked)
    password, hashed = await read_password(asked)
    ended = await accounts.set_password(desk.database, user_id, hashed)
    print(f"the password is set; sessions ended: {ended}")
    if password is not None:
        print(f"password      {password}  (shown this once)")


async def set_subject(desk: Desk, asked: argparse.Namespace) -> None:
    await accounts.set_subject(desk.database, await desk.user(asked), asked.subject)
    print("the identity provider's subject is set")


async def set_admin_state(desk: Desk, asked: argparse.Namespace) -> None:
    is_admin = asked.action == "set-admin"
    await accounts.set_admin(desk.database, await desk.user(asked), is_admin)
    print(f"{cell(asked.email)} is {'an' if is_admin else 'no'} administrator of {asked.tenant}")


async def set_user_state(desk: Desk, asked: argparse.Namespace) -> None:
    is_out = asked.action == "disable"
    await accounts.set_user_disabled(desk.database, await desk.user(asked), is_out)
    print(f"{cell(asked.email)} is {'kept out' if is_out else 'let in'}, everywhere within 5 s")


async def read_password(asked: argparse.Namespace) -> tuple[str | None, str]:
    """The password where it must be shown, for it is a new one, and its hash."""
    shown = None
    if asked.password == GENERATE:
        shown = password = new_password()
    elif sys.stdin.isatty():
        password = await asyncio.to_thread(getpass.getpass, "New password: ")
        if await asyncio.to_thread(getpass.getpass, "Once more: ") != password:
            raise CommandError("the two differ")
    else:
        password = (await asyncio.to_thread(sys.stdin.readline)).rstrip("\n")
    try:
        return shown, await asyncio.to_thread(hash_password, password)
    except ValueError as error:
        raise CommandError(str(error)) from None
