"""`python -m deploy.admin`: tenants, users, keys, limits and MCP servers.

Works on the database of TURNKEEP_DATABASE_URL. Secrets are printed once, to standard output, and
stored nowhere; a password is read from the terminal or from standard input, never an argument.
"""

import argparse
import asyncio
from collections.abc import Callable

import asyncpg
from pydantic import ValidationError

from deploy.admin.desk import Command, Desk
from deploy.admin.keys import add_key_commands
from deploy.admin.limits import add_limit_commands
from deploy.admin.mcp_servers import add_mcp_server_commands
from deploy.admin.settings import AdminSettings, CommandError
from deploy.admin.tenants import add_tenant_commands
from deploy.admin.users import add_user_commands
from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database


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
