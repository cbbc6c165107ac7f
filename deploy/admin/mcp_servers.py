"""`mcp-server`: servers whose tools a tenant's agents may call."""

import argparse
import asyncio
import getpass
import sys
from typing import Any

from deploy.admin.desk import PLACE, Action, Desk, cell
from deploy.admin.settings import CommandError
from shared.outbound.configuration import mcp_rules
from shared.outbound.errors import UrlRefused
from shared.service import mcp_servers
from shared.service.sealing import Sealer


def add_mcp_server_commands(action: Action) -> None:
    for verb, told, command in (
        ("add", "add a server of the Model Context Protocol", add_mcp_server),
        ("remove", "forget a server and its token", remove_mcp_server),
    ):
        change = action(verb, told, command)
        change.add_argument("tenant", help=PLACE)
        change.add_argument("name", help="agents name it as mcp:NAME")
        if verb == "add":
            add_mcp_server_options(change)
    action("list", "list a tenant's servers, without their tokens", list_mcp_servers).add_argument(
        "tenant", help=PLACE
    )


def add_mcp_server_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("url", help="https://host/path, streamable HTTP")
    add.add_argument(
        "--token",
        action="store_true",
        help="read a bearer token from the terminal or standard input",
    )
    add.add_argument("--prefix", help="before its tools' names; default: NAME_")
    add.add_argument(
        "--tool", action="append", default=[], help="offer this tool; repeat; default: all"
    )
    add.add_argument(
        "--approval",
        choices=("always", "never"),
        default="always",
        help="whether a person allows each call; default: always",
    )
    add.add_argument(
        "--unattended", action="append", default=[], help="this tool needs no approval; repeat"
    )


async def add_mcp_server(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    prefix = f"{asked.name}_" if asked.prefix is None else asked.prefix
    wanted = mcp_servers.McpServer(
        name=asked.name,
        url=asked.url,
        tool_prefix=prefix,
        token=await read_token() if asked.token else None,
        tools=frozenset(asked.tool) or None,
        requires_approval=asked.approval == "always",
        unattended_tools=frozenset(asked.unattended),
    )
    try:
        server = mcp_servers.checked(wanted, mcp_rules(desk.settings))
    except (ValueError, UrlRefused) as error:
        raise CommandError(str(error)) from None
    sealer = Sealer(desk.settings.pepper())
    if not await mcp_servers.add_server(desk.database, sealer, tenant["id"], server):
        raise CommandError(f"{tenant['slug']} has a server {server.name!r}; remove it first")
    print(f"agents of {tenant['slug']} may name mcp:{server.name}")


async def list_mcp_servers(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    rows = await mcp_servers.list_servers(desk.database, tenant["id"])
    desk.table(
        ["NAME", "URL", "TOKEN", "PREFIX", "TOOLS", "APPROVAL", "MADE"],
        [
            [
                r["name"],
                r["url"],
                "yes" if r["has_token"] else None,
                r["tool_prefix"] or None,
                "all" if r["tools"] is None else " ".join(r["tools"]),
                approval_of(r),
                r["created_at"],
            ]
            for r in rows
        ],
    )


def approval_of(row: Any) -> str:
    if not row["requires_approval"]:
        return "never"
    unattended = " ".join(row["unattended_tools"])
    return f"always, but for {unattended}" if unattended else "always"


async def remove_mcp_server(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    if not await mcp_servers.remove_server(desk.database, tenant["id"], asked.name):
        raise CommandError(f"{tenant['slug']} has no MCP server {asked.name!r}")
    print(f"removed       {cell(asked.name)}; turns of agents that name it fail from now on")


async def read_token() -> str:
    """From the terminal or standard input: an argument would stand in the list of processes."""
    if sys.stdin.isatty():
        token: str = await asyncio.to_thread(getpass.getpass, "Token: ")
        return token
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.rstrip("\n")
