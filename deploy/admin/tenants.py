"""`tenant`: organizations that own data."""

import argparse

from deploy.admin.desk import PLACE, Action, Desk, status_text
from shared.service import accounts


def add_tenant_commands(action: Action) -> None:
    action("create", "make a tenant", create_tenant).add_argument("name")
    action("list", "list all tenants", list_tenants)
    for verb, told in (("disable", "keep a tenant out, keep its data"), ("enable", "let it in")):
        action(verb, told, set_tenant_state).add_argument("tenant", help=PLACE)


async def create_tenant(desk: Desk, asked: argparse.Namespace) -> None:
    tenant_id = await accounts.create_tenant(desk.database, asked.name)
    tenant = await desk.tenant(str(tenant_id))
    print(f"tenant        {tenant_id}\nshort name    {tenant['slug']}")


async def list_tenants(desk: Desk, _: argparse.Namespace) -> None:
    rows = await accounts.list_tenants(desk.database)
    desk.table(
        ["SHORT NAME", "NAME", "STATE", "MADE", "ID"],
        [[r["slug"], r["name"], status_text(r), r["created_at"], r["id"]] for r in rows],
    )


async def set_tenant_state(desk: Desk, asked: argparse.Namespace) -> None:
    tenant = await desk.tenant(asked.tenant)
    is_out = asked.action == "disable"
    await accounts.set_tenant_disabled(desk.database, tenant["id"], is_out)
    print(f"{tenant['slug']} is {'kept out' if is_out else 'let in'}, everywhere within 5 s")
