"""`limit`: how many turns of a concurrency key run at once."""

import argparse

from deploy.admin.desk import PLACE, Action, Desk, cell
from deploy.admin.settings import CommandError
from shared.service import accounts


def add_limit_commands(action: Action) -> None:
    for verb, told, command in (
        ("set", "set how many turns of a key may run at once", set_limit),
        ("remove", "back to one at once", remove_limit),
    ):
        change = action(verb, told, command)
        change.add_argument("tenant", help=PLACE)
        change.add_argument("key", help="the concurrency key")
        if verb == "set":
            change.add_argument("most", type=at_once, help="1 to 1000")
    action("list", "list a tenant's limits", list_limits).add_argument("tenant", help=PLACE)


def at_once(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("1 to 1000")
    return number


async def set_limit(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    await accounts.set_limit(desk.database, tenant["id"], asked.key, asked.most)
    print(f"{cell(asked.key)}: at most {asked.most} turns at once")


async def list_limits(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    rows = await accounts.list_limits(desk.database, tenant["id"])
    desk.table(
        ["CONCURRENCY KEY", "MOST AT ONCE"],
        [[r["concurrency_key"], r["max_running"]] for r in rows],
    )


async def remove_limit(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    if not await accounts.remove_limit(desk.database, tenant["id"], asked.key):
        raise CommandError(f"{tenant['slug']} has no limit for {asked.key!r}")
    print(f"{cell(asked.key)}: one turn at once, as without a limit")
