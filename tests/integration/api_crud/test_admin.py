"""The operator's commands: what they print works, what they end does not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from deploy.admin.__main__ import parse_arguments, run
from deploy.admin.settings import AdminSettings, CommandError
from shared.errors import NotAuthenticated
from shared.postgres.pool import Database
from shared.service.credentials import PREFIX_OF, Credentials
from shared.service.passwords import is_right
from shared.service.sealing import Sealer
from shared.turn.model import CredentialKind, Permission, Reach

PEPPER = "pepper-of-the-admin-tests"
Call = Callable[..., Awaitable[str]]


@pytest.fixture
def call(database_url: str, capsys: pytest.CaptureFixture[str]) -> Call:
    settings = AdminSettings(database_url=SecretStr(database_url), key_pepper=SecretStr(PEPPER))

    async def call(*arguments: str) -> str:
        await run(parse_arguments(list(arguments)), settings)
        return capsys.readouterr().out

    return call


@pytest.fixture
async def acme(call: Call) -> str:
    """A tenant with a user, by its short name."""
    told = await call("tenant", "create", "Acme & Sons")
    slug = re.findall(r"short name +(\S+)", told)[0]
    await call("user", "create", slug, "ann@acme.example", "--name", "Ann")
    return str(slug)


async def authenticate(database: Database, secret: str) -> Any:
    return await Credentials(database, PEPPER.encode()).authenticate(secret)


async def test_a_made_key_works_until_it_is_revoked(
    call: Call, acme: str, database: Database
) -> None:
    told = await call("key", "create", acme, "ANN@acme.example", "--name", "laptop")
    secret = re.findall(r"vai_sk_\S+", told)[0]
    principal = await authenticate(database, secret)
    listed = await call("key", "list", "--tenant", acme)
    assert str(principal.key_id) in listed
    assert "laptop" in listed
    assert secret not in listed
    await call("key", "revoke", str(principal.key_id))
    with pytest.raises(NotAuthenticated):
        await authenticate(database, secret)
    assert "revoked" in await call("key", "list")


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("mechamental", [CredentialKind.MECHAMENTAL]),
        ("kodey", [CredentialKind.KODEY_SECRET, CredentialKind.KODEY_PUBLISHABLE]),
        ("zylon", [CredentialKind.ZYLON]),
    ],
)
async def test_each_surface_has_credentials_of_its_own(
    call: Call, acme: str, database: Database, kind: str, made: list[CredentialKind]
) -> None:
    told = await call("key", "create", acme, "ann@acme.example", "--kind", kind)
    secrets = re.findall(r"(\S+)  \(shown", told)
    principals = [await authenticate(database, secret) for secret in secrets]
    assert [principal.kind for principal in principals] == made
    assert [secret.startswith(PREFIX_OF[k]) for secret, k in zip(secrets, made, strict=True)]
    assert all(principal.reach == Reach() for principal in principals)
    listed = await call("key", "list", "--tenant", acme)
    for principal in principals:
        assert principal.kind in listed
        await call("key", "revoke", str(principal.key_id))
    for secret in secrets:
        with pytest.raises(NotAuthenticated):
            await authenticate(database, secret)


async def test_a_token_reaches_what_it_was_made_for(
    call: Call, acme: str, database: Database
) -> None:
    made = ("key", "create", acme, "ann@acme.example", "--kind")
    told = await call(
        *made, "mechamental", "--workspace", "a", "--workspace", "b", "--namespace", "n",
        "--permission", "messages:read", "--permission", "threads:write",
    )  # fmt: skip
    principal = await authenticate(database, re.findall(r"mm_tok_\S+", told)[0])
    may = frozenset({Permission.READ_MESSAGES, Permission.WRITE_THREADS})
    assert principal.reach == Reach(frozenset("ab"), frozenset("n"), may)
    listed = await call("key", "list", "--tenant", acme)
    assert "workspace=a,b namespace=n permission=messages:read,threads:write" in listed
    for option in (("--namespace", "n"), ("--permission", "messages:read")):
        with pytest.raises(CommandError, match="mechamental"):
            await call(*made, "zylon", *option)


async def test_who_is_kept_out_and_let_in(call: Call, acme: str, database: Database) -> None:
    secret = re.findall(r"vai_sk_\S+", await call("key", "create", acme, "ann@acme.example"))[0]
    for thing in (("tenant", acme), ("user", acme, "ann@acme.example")):
        await call(thing[0], "disable", *thing[1:])
        with pytest.raises(NotAuthenticated):
            await authenticate(database, secret)
        assert "disabled" in await call(thing[0], "list", *thing[1:2] * (thing[0] == "user"))
        await call(thing[0], "enable", *thing[1:])
        await authenticate(database, secret)


async def test_two_tenants_of_one_name(call: Call) -> None:
    names = [
        re.findall(r"short name +(\S+)", await call("tenant", "create", name))[0]
        for name in ("Blue", "blue!", "蓝")
    ]
    assert names[0] == "blue"
    assert names[1].startswith("blue-")
    assert len(set(names)) == 3
    listed = await call("tenant", "list")
    assert all(name in listed for name in names)


async def test_passwords(
    call: Call, acme: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = (acme, "ann@acme.example")
    told = await call("user", "set-password", *who, "--password", "generate")
    shown = re.findall(r"password +(\S+)  \(shown this once\)", told)[0]
    stored = "select password_hash from users where email = 'ann@acme.example'"
    assert is_right(await admin.fetchval(stored), shown)
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe \n"))
    told = await call("user", "set-password", *who)
    assert "from a pipe" not in told
    assert is_right(await admin.fetchval(stored), "from a pipe ")
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    with pytest.raises(CommandError, match="8 to 1024"):
        await call("user", "set-password", *who)
    assert "yes" in await call("user", "list", acme)
    told = await call("user", "create", acme, "bob@acme.example", "--password", "generate")
    assert "shown this once" in told
    await call("user", "set-subject", *who, "idp|ann")
    assert "idp|ann" in await call("user", "list", acme)


async def test_the_first_user_administers_and_others_when_they_are_told_to(
    call: Call, acme: str, admin: Any
) -> None:
    await call("user", "create", acme, "bob@acme.example")
    await call("user", "create", acme, "ann2@acme.example")
    who = "select array_agg(email order by email) from users where is_admin"
    assert await admin.fetchval(who) == ["ann@acme.example"]
    told = await call("user", "set-admin", acme, "Bob@acme.example")
    assert "is an administrator" in told
    assert await admin.fetchval(who) == ["ann@acme.example", "bob@acme.example"]
    told = await call("user", "unset-admin", acme, "ann@acme.example")
    assert "is no administrator" in told
    assert await admin.fetchval(who) == ["bob@acme.example"]
    (line,) = [line for line in (await call("user", "list", acme)).splitlines() if "bob" in line]
    assert "yes" in line


async def test_limits(call: Call, acme: str, admin: Any) -> None:
    await call("limit", "set", acme, "crm", "3")
    await call("limit", "set", acme, "crm", "5")
    assert re.search(r"crm +5", await call("limit", "list", acme))
    await call("limit", "remove", acme, "crm")
    assert await admin.fetchval("select count(*) from concurrency_limits") == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("key", "revoke", str(UUID(int=1))), "no key"),
        (("key", "create", "nowhere", "a@b.c"), "no tenant 'nowhere'"),
        (("key", "create", "ACME", "nobody@acme.example"), "no user"),
        (("user", "create", "ACME", "ANN@acme.example"), "already"),
        (("limit", "remove", "ACME", "crm"), "no limit"),
    ],
)
async def test_what_cannot_be_done(
    call: Call, acme: str, arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(CommandError, match=why):
        await call(*(acme if word == "ACME" else word for word in arguments))


async def test_a_terminal_is_shown_no_control_characters(call: Call, acme: str) -> None:
    await call("user", "create", acme, "eve@acme.example", "--name", "\x1b[2Jeve")
    assert "\x1b" not in await call("user", "list", acme)


@pytest.mark.parametrize(
    ("arguments", "environment", "why"),
    [
        (["tenant", "list"], {}, "TURNKEEP_DATABASE_URL"),
        (["tenant", "list"], {"TURNKEEP_DATABASE_URL": "postgresql://u:canary@127.0.0.1:1/x"}, ""),
        (["limit", "set", "a", "b", "0"], {}, "1 to 1000"),
        (["key", "revoke", "x"], {}, "invalid UUID"),
        (["tenant"], {}, "ACTION"),
        (["key", "create", "a", "b", "--permission", "messages:eat"], {}, "messages:write"),
    ],
)
def test_errors_are_readable(arguments: list[str], environment: dict[str, str], why: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TURNKEEP_")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.admin", *arguments],
        env=inherited | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == ""
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("words", ["", "tenant", "user", "key", "limit", "user set-password"])
def test_help_is_everywhere(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_arguments([*words.split(), "--help"])
    assert left.value.code == 0
    assert "usage: python -m deploy.admin" in capsys.readouterr().out


# -- MCP servers

CRM = ("crm", "https://crm.example.org/mcp")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a-bearer-token\n"))


@pytest.mark.usefixtures("typed")
async def test_mcp_servers_are_added_listed_and_removed(call: Call, acme: str, admin: Any) -> None:
    options = ["--token", "--tool", "find", "--tool", "pay", "--unattended", "find"]
    assert "mcp:crm" in await call("mcp-server", "add", acme, *CRM, *options)
    listed = await call("mcp-server", "list", acme)
    for text in (*CRM, "yes", "crm_", "find pay", "always, but for find"):
        assert text in listed
    row = await admin.fetchrow("select * from mcp_servers")
    assert "a-bearer-token" not in listed + repr(row)
    tenant_id = row["tenant_id"]
    sealer = Sealer(PEPPER.encode())
    assert sealer.open(row["sealed_token"], f"mcp_servers/{tenant_id}/crm") == "a-bearer-token"
    with pytest.raises(CommandError, match="remove it first"):
        await call("mcp-server", "add", acme, *CRM)
    await call("mcp-server", "remove", acme, "crm")
    assert "crm" not in await call("mcp-server", "list", acme)
    with pytest.raises(CommandError, match="no MCP server"):
        await call("mcp-server", "remove", acme, "crm")
    await call("mcp-server", "add", acme, *CRM, "--approval", "never", "--prefix", "")
    assert "never" in await call("mcp-server", "list", acme)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("Crm", CRM[1]), "a name is"),
        (("c" * 33, CRM[1]), "a name is"),
        (("crm", "http://crm.example.org/"), "https://"),
        (("crm", "https://10.0.0.1/"), "not a public one"),
        (("crm", "https://crm.internal/"), "public name"),
        (("crm", "https://crm.example.org:22/"), "port"),
        (("crm", "https://user:pw@crm.example.org/"), "user name"),
        ((*CRM, "--prefix", "a b"), "prefix"),
        ((*CRM, "--tool", "a b"), "no name of a tool"),
        ((*CRM, "--tool", "a", "--unattended", "b"), "among the tools"),
    ],
)
async def test_what_is_no_mcp_server(
    call: Call, acme: str, arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(CommandError, match=why):
        await call("mcp-server", "add", acme, *arguments)
    assert "crm" not in await call("mcp-server", "list", acme)


async def test_a_tokens_characters_are_those_of_a_header(
    call: Call, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("", "two words", "t\u00f8ken", "x" * 8193):
        monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
        with pytest.raises(CommandError, match="token"):
            await call("mcp-server", "add", acme, *CRM, "--token")
