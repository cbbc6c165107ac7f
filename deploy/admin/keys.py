"""`key`: API keys of every surface, and personal tokens."""

import argparse
from uuid import UUID

from deploy.admin.desk import PLACE, Action, Desk
from deploy.admin.settings import CommandError
from shared.service import accounts
from shared.turn.model import CredentialKind, Permission, Reach

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


def add_key_commands(action: Action) -> None:
    create = action("create", "make an API key", create_key)
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
    create.add_argument(
        "--permission",
        action="append",
        default=[],
        choices=[permission.value for permission in Permission],
        help="of a mechamental token: may do this only; repeat",
    )
    action("list", "list keys and tokens, without their secrets", list_keys).add_argument(
        "--tenant", help=PLACE
    )
    action("revoke", "end a key or token for good", revoke_key).add_argument(
        "key", type=UUID, help="its id, see `key list`"
    )


async def create_key(desk: Desk, asked: argparse.Namespace) -> None:
    user_id = await desk.user(asked)
    tenant = await desk.tenant(asked.tenant)
    kinds = KINDS[asked.kind]
    asked_for = (asked.workspace, asked.namespace, asked.permission)
    reach = Reach(*(frozenset(names) or None for names in asked_for))
    if reach != Reach() and CredentialKind.MECHAMENTAL not in kinds:
        raise CommandError(
            "only tokens of --kind mechamental reach some workspaces, namespaces or permissions"
        )
    for kind, told in kinds.items():
        secret = await accounts.create_api_key(
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
        [
            "ID",
            "STATE",
            "KIND",
            "BEGINS",
            "TENANT",
            "USER",
            "NAME",
            "REACH",
            "EXPIRES",
            "LAST USED",
        ],
        [
            [
                r["id"],
                "revoked" if r["revoked_at"] else "valid",
                r["token_type"],
                r["prefix"],
                r["tenant"],
                r["email"],
                r["name"],
                " ".join(
                    f"{what}={','.join(r[f'{what}s'])}"
                    for what in ("workspace", "namespace", "permission")
                    if r[f"{what}s"] is not None
                )
                or None,
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
