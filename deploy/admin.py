"""`python -m deploy.admin`: tenants, users, keys and limits, from the command line.

Works on the database of TURNKEEP_DATABASE_URL. Secrets are printed once, to standard output, and
stored nowhere; a password is read from the terminal or from standard input, never an argument.
"""

import argparse
import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import PostgresUnavailable
from shared.outbound.configuration import mcp_rules
from shared.outbound.errors import UrlRefused
from shared.outbound.url_rules import DEFAULT_PORTS
from shared.postgres.pool import Database
from shared.service import accounts, mcp_servers
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.service.passwords import MIN_CHARS, hash_password, new_password
from shared.service.sealing import Sealer
from shared.turn.model import CredentialKind, Reach

PLACE = "short name or id"
KINDS = {
    "api-key": {CredentialKind.API_KEY: "API key"},
    "mechamental": {CredentialKind.MECHAMENTAL: "token"},
    "kodey": {
        CredentialKind.KODEY_SECRET: "secret key",
        CredentialKind.KODEY_PUBLISHABLE: "publishable",
    },
    "zylon": {CredentialKind.ZYLON: "token"},
}
"""What one can ask for, and what is made."""
ASK, GENERATE = "ask", "generate"


class AdminSettings(BaseSettings):
    """What the commands need of the environment."""

    model_config = SettingsConfigDict(env_prefix="TURNKEEP_", extra="ignore")

    database_url: SecretStr
    key_pepper: SecretStr | None = Field(default=None, min_length=16)
    # where MCP servers may be: as the workers have it
    outbound_ports: frozenset[int] = DEFAULT_PORTS
    outbound_allow_http: bool = False
    outbound_own_addresses: frozenset[IPv4Address | IPv6Address] = frozenset()
    mcp_private_networks: frozenset[IPv4Network | IPv6Network] = frozenset()

    def pepper(self) -> bytes:
        """For making keys and sealing tokens, which no other commands need.

        Raises:
            CommandError: it is not set.
        """
        if self.key_pepper is None:
            raise CommandError("TURNKEEP_KEY_PEPPER must be set, the same as for API and workers")
        return self.key_pepper.get_secret_value().encode()


class CommandError(Exception):
    """The command cannot do what it was asked for; the message says why, in one line."""


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


# -- tenants


async def create_a_tenant(desk: Desk, asked: argparse.Namespace) -> None:
    tenant_id = await create_tenant(desk.database, asked.name)
    tenant = await desk.tenant(str(tenant_id))
    print(f"tenant        {tenant_id}\nshort name    {tenant['slug']}")


async def list_tenants(desk: Desk, _: argparse.Namespace) -> None:
    rows = await accounts.list_tenants(desk.database)
    desk.table(
        ["SHORT NAME", "NAME", "STATE", "MADE", "ID"],
        [[r["slug"], r["name"], state_of(r), r["created_at"], r["id"]] for r in rows],
    )


async def disable_tenant(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    is_out = asked.action == "disable"
    await accounts.set_tenant_disabled(desk.database, tenant["id"], is_out)
    print(f"{tenant['slug']} is {'kept out' if is_out else 'let in'}, everywhere within 5 s")


def state_of(row: Any) -> str:
    return "disabled" if row["disabled_at"] else "active"


# -- users


async def create_a_user(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    if await accounts.find_user(desk.database, tenant["id"], asked.email) is not None:
        raise CommandError(f"{tenant['slug']} has a user {asked.email!r} already")
    password = hashed = None
    if asked.password is not None:
        password, hashed = await read_password(asked)
    user_id = await create_user(desk.database, tenant["id"], asked.email, asked.name or asked.email)
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
                state_of(r),
                "yes" if r["is_admin"] else None,
                "yes" if r["has_password"] else None,
                r["subject"],
                r["id"],
            ]
            for r in rows
        ],
    )


async def set_a_password(desk: Desk, asked: argparse.Namespace) -> None:
    user_id = await desk.user(asked)
    password, hashed = await read_password(asked)
    ended = await accounts.set_password(desk.database, user_id, hashed)
    print(f"the password is set; sessions ended: {ended}")
    if password is not None:
        print(f"password      {password}  (shown this once)")


async def set_a_subject(desk: Desk, asked: argparse.Namespace) -> None:
    await accounts.set_subject(desk.database, await desk.user(asked), asked.subject)
    print("the identity provider's subject is set")


async def set_an_admin(desk: Desk, asked: argparse.Namespace) -> None:
    is_admin = asked.action == "set-admin"
    await accounts.set_admin(desk.database, await desk.user(asked), is_admin)
    print(f"{cell(asked.email)} is {'an' if is_admin else 'no'} administrator of {asked.tenant}")


async def disable_user(desk: Desk, asked: argparse.Namespace) -> None:
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


# -- keys


async def create_a_key(desk: Desk, asked: argparse.Namespace) -> None:
    user_id = await desk.user(asked)
    tenant = await desk.tenant(asked.tenant)
    kinds = KINDS[asked.kind]
    reach = Reach(*(frozenset(names) or None for names in (asked.workspace, asked.namespace)))
    if reach != Reach() and CredentialKind.MECHAMENTAL not in kinds:
        raise CommandError("only tokens of --kind mechamental reach some workspaces or namespaces")
    for kind, told in kinds.items():
        secret = await create_api_key(
            desk.database,
            tenant_id=tenant["id"],
            user_id=user_id,
            name=asked.name,
            pepper=desk.settings.pepper(),
            kind=kind,
            reach=reach,
        )
        print(f"{told:13} {secret}  (shown this once)")


async def list_keys(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = None if asked.tenant is None else await desk.tenant(asked.tenant)
    rows = await accounts.list_api_keys(desk.database, None if tenant is None else tenant["id"])
    desk.table(
        ["ID", "STATE", "KIND", "BEGINS", "TENANT", "USER", "NAME", "EXPIRES", "LAST USED"],
        [
            [
                r["id"],
                "revoked" if r["revoked_at"] else "valid",
                r["token_type"],
                r["prefix"],
                r["tenant"],
                r["email"],
                r["name"],
                r["expires_at"],
                r["last_used_at"],
            ]
            for r in rows
        ],
    )


async def revoke_key(desk: Desk, asked: argparse.Namespace) -> None:
    if not await accounts.revoke_api_key(desk.database, asked.key):
        raise CommandError(f"there is no key {asked.key}")
    print(f"revoked       {asked.key}, everywhere within 5 s")


# -- limits


async def set_a_limit(desk: Desk, asked: argparse.Namespace) -> None:
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


async def remove_a_limit(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    if not await accounts.remove_limit(desk.database, tenant["id"], asked.key):
        raise CommandError(f"{tenant['slug']} has no limit for {asked.key!r}")
    print(f"{cell(asked.key)}: one turn at once, as without a limit")


# -- MCP servers


async def add_an_mcp_server(desk: Desk, asked: argparse.Namespace) -> None:
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


async def remove_an_mcp_server(desk: Desk, asked: argparse.Namespace) -> None:
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


# -- the command line

Command = Callable[[Desk, argparse.Namespace], Awaitable[None]]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.admin", description=__doc__)
    things = parser.add_subparsers(dest="thing", required=True, metavar="THING")

    def thing(name: str, help_: str) -> Callable[[str, str, Command], argparse.ArgumentParser]:
        actions = things.add_parser(name, help=help_).add_subparsers(
            dest="action", required=True, metavar="ACTION"
        )

        def action(verb: str, told: str, command: Command) -> argparse.ArgumentParser:
            found = actions.add_parser(verb, help=told, description=told)
            found.set_defaults(command=command)
            return found

        return action

    add_tenant_commands(thing("tenant", "organizations that own data"))
    add_user_commands(thing("user", "people and backends inside a tenant"))
    add_key_commands(thing("key", "API keys and personal tokens"))
    add_limit_commands(thing("limit", "how many turns of a concurrency key run at once"))
    add_mcp_server_commands(thing("mcp-server", "servers whose tools a tenant's agents may call"))
    return parser.parse_args(arguments)


Action = Callable[[str, str, Command], argparse.ArgumentParser]


def add_tenant_commands(action: Action) -> None:
    action("create", "make a tenant", create_a_tenant).add_argument("name")
    action("list", "list all tenants", list_tenants)
    for verb, told in (("disable", "keep a tenant out, keep its data"), ("enable", "let it in")):
        action(verb, told, disable_tenant).add_argument("tenant", help=PLACE)


def add_user_commands(action: Action) -> None:
    def named(verb: str, told: str, command: Command) -> argparse.ArgumentParser:
        found = action(verb, told, command)
        found.add_argument("tenant", help=PLACE)
        found.add_argument("email")
        return found

    create = named("create", "make a user", create_a_user)
    create.add_argument("--name", help="default: the address")
    create.add_argument("--subject", help="what the identity provider calls them")
    create.add_argument("--password", choices=(ASK, GENERATE), help=PASSWORD)
    action("list", "list a tenant's users", list_users).add_argument("tenant", help=PLACE)
    change = named("set-password", "set a password; ends all sessions", set_a_password)
    change.add_argument("--password", choices=(ASK, GENERATE), default=ASK, help=PASSWORD)
    named("set-subject", "say who this is for the identity provider", set_a_subject).add_argument(
        "subject"
    )
    named("set-admin", "let a user change what runs for all of the tenant", set_an_admin)
    named("unset-admin", "take that away again", set_an_admin)
    named("disable", "keep a user out, keep their data", disable_user)
    named("enable", "let a user in again", disable_user)


PASSWORD = (
    f"ask: read from the terminal or standard input, {MIN_CHARS} characters or more;"
    " generate: make one and print it"
)


def add_key_commands(action: Action) -> None:
    create = action("create", "make an API key", create_a_key)
    create.add_argument("tenant", help=PLACE)
    create.add_argument("email")
    create.add_argument("--name", default="key", help="to know it again by")
    create.add_argument(
        "--kind",
        choices=tuple(KINDS),
        default="api-key",
        help="for which surface; kodey makes a pair; default: api-key, the primary one's",
    )
    for scope in ("workspace", "namespace"):
        create.add_argument(
            f"--{scope}",
            action="append",
            default=[],
            help=f"of a mechamental token: reach this {scope} only; repeat",
        )
    action("list", "list keys and tokens, without their secrets", list_keys).add_argument(
        "--tenant", help=PLACE
    )
    action("revoke", "end a key or token for good", revoke_key).add_argument(
        "key", type=UUID, help="its id, see `key list`"
    )


def add_limit_commands(action: Action) -> None:
    for verb, told, command in (
        ("set", "set how many turns of a key may run at once", set_a_limit),
        ("remove", "back to one at once", remove_a_limit),
    ):
        change = action(verb, told, command)
        change.add_argument("tenant", help=PLACE)
        change.add_argument("key", help="the concurrency key")
        if verb == "set":
            change.add_argument("most", type=at_once, help="1 to 1000")
    action("list", "list a tenant's limits", list_limits).add_argument("tenant", help=PLACE)


def add_mcp_server_commands(action: Action) -> None:
    for verb, told, command in (
        ("add", "add a server of the Model Context Protocol", add_an_mcp_server),
        ("remove", "forget a server and its token", remove_an_mcp_server),
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


def at_once(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("1 to 1000")
    return number


async def run(asked: argparse.Namespace, settings: AdminSettings) -> None:
    """Carries out one command.

    Raises:
        CommandError: it cannot be done.
        PostgresUnavailable: nobody is there to do it.
    """
    async with Database(settings.database_url.get_secret_value(), size=1) as database:
        await asked.command(Desk(database, settings), asked)


def main() -> None:
    asked = parse_arguments()
    try:
        asyncio.run(run(asked, AdminSettings()))
    except ValidationError as error:
        names = [
            f"TURNKEEP_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()
        ]
        raise SystemExit(f"turnkeep: {', '.join(names)}") from None
    except (CommandError, PostgresUnavailable) as error:
        raise SystemExit(f"turnkeep: {error}") from None
    except asyncpg.UndefinedTableError:
        raise SystemExit(
            "turnkeep: this database has no tables of ours; run python -m shared.postgres.migrate"
        ) from None
    except asyncpg.PostgresError as error:
        raise SystemExit(f"turnkeep: {type(error).__name__}: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
