"""One `python -m api` per pytest process, attacked by all tests here; each checks that it bore it.

No worker runs: turns stay pending, and no table changes unless a request changes it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psutil
import pytest

from deploy.embedded.valkey import EmbeddedValkey
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.accounts import (
    create_api_key,
    create_tenant,
    create_user,
    set_password,
    set_subject,
)
from shared.service.credentials import (
    PREFIX_OF,
    SESSION_PREFIX,
    TOKEN_PREFIX,
    hash_secret,
    hash_session,
    new_secret,
)
from shared.service.passwords import hash_password
from shared.turn.model import CredentialKind, Reach
from tests.acceptance.client import Client
from tests.acceptance.product import PEPPER, Product
from tests.fixtures.provider import AUDIENCE, ISSUER, Issuer
from tests.fixtures.servers import with_database
from tests.security.credentials import Keys
from tests.security.lodgings import Lodging, lodge
from tests.security.routes import AUTOMATION, AUTOMATIONS, CHAT, PASSWORD, SPECS, Place, Route
from tests.security.surfaces import PRIMARY, TABLES, Ids
from tests.security.wire import send

RSS_GROWTH_BYTES = 160 * 1024 * 1024
"""What the process may grow by in all tests together: the largest bodies are 1 MiB each."""
TOKENS = "/api/v1/access-tokens"
_NOWHERE = frozenset({"nowhere"})
REACHES = {
    "workspaces:access": Reach(workspaces=_NOWHERE),
    "namespaces:access": Reach(namespaces=_NOWHERE),
    "": Reach(permissions=frozenset()),
}
"""How tokens of MechaMental are restricted, by what they lack; "": what the operation needs."""
NOT_IN_A_LOG = (b"Traceback", b"http.defect", b"Exception in ASGI")


@dataclass(frozen=True)
class Party:
    """A user, their keys, and a thread of theirs with a pending turn."""

    keys: Keys
    place: Place
    lodgings: Mapping[str, Lodging] = field(default_factory=dict)
    """Surface → what they have there."""

    def ids(self, front: str) -> Ids:
        """What they have on a surface."""
        return self.lodgings[front].ids


@dataclass(frozen=True)
class Target:
    """The attacked process, and who lives there."""

    product: Product
    port: int
    owner: Party
    colleague: Party
    """Of the same tenant."""
    stranger: Party
    """Of another tenant."""
    rss_bytes: int

    async def new_place(self, party: Party) -> Place:
        """A fresh thread of theirs with a pending turn, and no more tokens than they may have."""
        async with self.product.postgres() as admin:
            await admin.execute(
                "delete from api_keys"
                " where token_type = 'pat' and name <> 'kept' and revoked_at is null"
            )
            # Nor more runs that wait: no worker takes them.
            await admin.execute(
                "update automation_runs set status = 'cancelled', due_at = null, ended_at = now()"
                " where due_at is not null and id <> all($1)",
                [other.place.run_id for other in (self.owner, self.colleague, self.stranger)],
            )
        return await make_place(Client(self.port, party.keys.good))

    async def place_for(self, route: Route) -> Place:
        """The owner's: what reads may read the same again, what writes has one of its own."""
        return self.owner.place if route.method == "GET" else await self.new_place(self.owner)

    async def lodge(self, party: Party, front: str) -> Lodging:
        """Something fresh on a surface."""
        place = await self.new_place(party) if front == PRIMARY else None
        return await lodge(self.port, party.keys, place, front)

    async def new_session(self, party: Party) -> str:
        """Another session of theirs, to be left."""
        async with self.product.postgres() as admin:
            row = await admin.fetchrow(
                "select tenant_id, user_id from api_keys where key_hash = $1",
                hash_secret(PEPPER.encode(), party.keys.good),
            )
            return await add_secret(admin, row["tenant_id"], row["user_id"], "session")


@pytest.fixture(scope="session")
def target(
    postgres_server: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    name = f"tk_{secrets.token_hex(6)}"
    directory = tmp_path_factory.mktemp("security")

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_server)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute(f"create database {name} template {postgres_template}"))
    with EmbeddedValkey(directory / "valkey") as valkey:
        product = Product(
            directory / "product",
            database_url=with_database(postgres_server, name),
            valkey=valkey,
            worker_count=0,
            # Tests of the limit have processes of their own.
            settings={
                "TURNKEEP_AUTH_FAILURES_PER_MINUTE": "0",
                "TURNKEEP_LOGIN_ATTEMPTS": "0",
                "TURNKEEP_KODEY_SECRET_PER_MINUTE": "1000000",
                "TURNKEEP_KODEY_PUBLISHABLE_PER_MINUTE": "1000000",
                # Nobody answers here.
                "TURNKEEP_KODEY_WAIT_S": "0.05",
                "TURNKEEP_SYNC_WAIT_S": "0.05",
                "TURNKEEP_JWT_ISSUER": ISSUER,
                "TURNKEEP_JWT_AUDIENCE": AUDIENCE,
                "TURNKEEP_JWT_JWKS_FILE": str(directory / "keys.json"),
                "TURNKEEP_JWT_TENANT_CLAIM": "org",
            },
        )
        issuer = Issuer()
        (directory / "keys.json").write_bytes(issuer.key_set())
        yield asyncio.run(_populate(product, issuer))
        product.stop()
    asyncio.run(execute(f"drop database {name} with (force)"))


async def _populate(product: Product, issuer: Issuer) -> Target:
    await product.be_whole()
    async with Database(product.database_url, size=1) as database:
        tenants = [await create_tenant(database, name) for name in ("A", "B")]
        parties = []
        for index, tenant_id in enumerate((tenants[0], tenants[0], tenants[1])):
            user_id = await create_user(database, tenant_id, f"u{index}@example.org", "U")
            await set_subject(database, user_id, f"u{index}")
            await set_password(database, user_id, hash_password(PASSWORD))
            keys = await _make_keys(database, product, issuer, tenant_id, user_id, f"u{index}")
            place = await make_place(Client(product.port, keys.good))
            lodged = {name: await lodge(product.port, keys, place, name) for name in TABLES}
            parties.append(Party(keys, place, lodged))
    rss = psutil.Process(product.api.pid).memory_info().rss
    return Target(product, product.port, parties[0], parties[1], parties[2], rss)


async def _make_keys(
    database: Database,
    product: Product,
    issuer: Issuer,
    tenant_id: Any,
    user_id: Any,
    subject: str,
) -> Keys:
    made = [
        await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name=name, pepper=PEPPER.encode()
        )
        for name in ("good", "revoked", "expired")
    ]
    of, revoked_of = [
        {
            kind: await create_api_key(
                database, tenant_id=tenant_id, user_id=user_id, name=kind,
                pepper=PEPPER.encode(), kind=kind,
            )
            for kind in PREFIX_OF
        }
        for _ in range(2)
    ]  # fmt: skip
    held = {
        lacking: await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name="held",
            pepper=PEPPER.encode(), kind=CredentialKind.MECHAMENTAL, reach=reach,
        )
        for lacking, reach in REACHES.items()
    }  # fmt: skip
    async with product.postgres() as admin:
        for secret, column in (
            (made[1], "revoked_at"),
            (made[2], "expires_at"),
            *((secret, "revoked_at") for secret in revoked_of.values()),
        ):
            await admin.execute(
                f"update api_keys set {column} = now() - interval '1 s' where key_hash = $1",  # noqa: S608
                hash_secret(PEPPER.encode(), secret),
            )
        for kind in ("pat", "session"):
            for expires, revoked in (("1 day", None), ("1 day", "-1 s"), ("-1 s", None)):
                made.append(await add_secret(admin, tenant_id, user_id, kind, expires, revoked))
    claims: dict[str, Any] = {"org": str(tenant_id), "sub": subject}
    good, revoked, expired, token, revoked_token, expired_token, *sessions = made
    session, revoked_session, expired_session = sessions
    return Keys(
        good=good,
        revoked=revoked,
        expired=expired,
        token=token,
        revoked_token=revoked_token,
        expired_token=expired_token,
        session=session,
        revoked_session=revoked_session,
        expired_session=expired_session,
        jwt=issuer.token(**claims),
        bad_jwts=issuer.bad_tokens(**claims),
        tenant_id=str(tenant_id),
        of={**of, CredentialKind.API_KEY: good, CredentialKind.PAT: token},
        revoked_of={**revoked_of, CredentialKind.PAT: revoked_token},
        held=held,
    )


async def add_secret(
    admin: Any,
    tenant_id: Any,
    user_id: Any,
    kind: str,
    expires: str = "1 day",
    revoked: str | None = None,
) -> str:
    """A personal token or a session, without asking anybody."""
    secret = new_secret(TOKEN_PREFIX if kind == "pat" else SESSION_PREFIX)
    hashed = (hash_secret if kind == "pat" else hash_session)(PEPPER.encode(), secret)
    await admin.execute(
        "insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name, token_type,"
        " expires_at, revoked_at) values ($1, $2, $3, $4, 'p', 'kept', $5,"
        " now() + $6::text::interval, now() + $7::text::interval)",
        new_id(), tenant_id, user_id, hashed, kind, expires, revoked,
    )  # fmt: skip
    return secret


async def make_place(client: Client) -> Place:
    """A fresh thread with a pending turn and an attachment, a revoked token, a run that waits."""
    token = (await client.post(TOKENS, {"name": "x"})).json["token"]["id"]
    await client.request("DELETE", f"{TOKENS}/{token}")
    thread = await client.post(f"{CHAT}/threads")
    thread_id = thread.json["id"]
    body = {"message": "x", "modelId": "scripted"}
    turn = await client.post(f"{CHAT}/threads/{thread_id}/turns", body)
    assert turn.status == 202, turn.body
    artifact = await client.post("/api/v1/artifacts", {"kind": "text", "content": "x"})
    artifact_id = artifact.json["id"]
    path = f"{CHAT}/threads/{thread_id}/attachments?artifact_id={artifact_id}"
    attachment = await client.post(path)
    assert attachment.status == 201, attachment.body
    markdown = f"---\nname: A\nslug: of-{thread_id}\nmode: primary\ntools: []\n---\nBe kind."
    spec = await client.post(SPECS, {"markdown": markdown})
    assert spec.status == 201, spec.body
    rated = {"rating": "positive", "turnId": turn.json["id"]}
    feedback = await client.post(f"{CHAT}/threads/{thread_id}/feedback", rated)
    assert feedback.status == 201, feedback.body
    gated = {"steps": [*AUTOMATION["config"]["steps"], {"id": "g", "kind": "approval_gate"}]}
    automation = await client.post(AUTOMATIONS, AUTOMATION | {"config": gated})
    assert automation.status == 201, automation.body
    run = await client.post(f"{AUTOMATIONS}/{automation.json['id']}/runs")
    assert run.status == 202, run.body
    return Place(
        thread_id=thread_id,
        turn_id=turn.json["id"],
        artifact_id=artifact_id,
        attachment_id=attachment.json["id"],
        token_id=token,
        spec_id=spec.json["id"],
        automation_id=automation.json["id"],
        run_id=run.json["id"],
    )


class Unharmed:
    """What an attack may not change. `rows_changed` says that the test writes rows on purpose."""

    def __init__(self) -> None:
        self.rows_changed = False
        self.slowest_s = 0.0


async def count_rows(admin: Any) -> dict[str, int]:
    """Rows of every table of ours."""
    tables = await admin.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    counts = [f"select '{name}', count(*) from \"{name}\"" for (name,) in tables]  # noqa: S608
    return dict(await admin.fetch(" union all ".join(counts)))


@pytest.fixture
async def unharmed(
    target: Target, record_property: Callable[[str, object], None]
) -> AsyncIterator[Unharmed]:
    """No row, no defect and no secret in the log, no growth; and it still answers."""
    watch = Unharmed()
    log = target.product.api.log
    read = log.stat().st_size
    async with target.product.postgres() as admin:
        before = await count_rows(admin)
        yield watch
        if not watch.rows_changed:
            assert await count_rows(admin) == before
    with log.open("rb") as lines:
        lines.seek(read)
        said = lines.read()
    for word in (*NOT_IN_A_LOG, PASSWORD.encode(), *target.owner.keys.secrets):
        assert word not in said, said[-2000:]
    target.product.api.require_running()
    assert (
        await send(target.port, b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n")
    ).status == 200
    grown = psutil.Process(target.product.api.pid).memory_info().rss - target.rss_bytes
    record_property("slowest_ms", round(watch.slowest_s * 1000, 1))
    record_property("rss_growth_mib", round(grown / 2**20, 1))
    assert grown < RSS_GROWTH_BYTES
