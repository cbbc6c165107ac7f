"""The kit on a deployment that it did not start: it finds what is broken, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from deploy.embedded.valkey import EmbeddedValkey
from tests.acceptance.client import Client
from tests.acceptance.product import PEPPER, Process, Product
from tests.acceptance.talk import CHAT, make_thread, submit
from tests.chaos import history as h
from tests.chaos.checker import check
from tests.chaos.foreign import FAMILY
from tests.fixtures.servers import with_database
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.timeout(90)

PATIENCE_S = 80.0
LONG = {"deltas": 600, "intervalMs": 100}


@pytest.fixture(scope="module")
def deployment(
    postgres_server: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Product, str]]:
    """The product, served by a login that owns nothing, and the URL of who owns its tables."""
    name, login = f"tk_{secrets.token_hex(6)}", f"turnkeep_app_{secrets.token_hex(4)}"

    async def execute(*statements: str) -> None:
        connection = await asyncpg.connect(postgres_server)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(
        execute(
            f"create database {name} template {postgres_template}",
            f"create role {login} login nosuperuser nocreatedb nocreaterole",
            f"grant turnkeep_engine, turnkeep_tenant to {login}",
        )
    )
    owner_url = with_database(postgres_server, name)
    host = urlsplit(owner_url).netloc.rpartition("@")[2]
    app_url = urlunsplit(urlsplit(owner_url)._replace(netloc=f"{login}@{host}"))
    directory = tmp_path_factory.mktemp("foreign")
    with EmbeddedValkey(directory / "valkey") as valkey:
        product = Product(
            directory / "product",
            database_url=app_url,
            valkey=valkey,
            worker_count=3,
            settings={
                "TURNKEEP_DRAIN_S": "1",
                "TURNKEEP_LEASE_S": "2",
                "TURNKEEP_HEARTBEAT_S": "0.5",
                "TURNKEEP_REDIS_PREFIX": "theirs",
            },
        )
        yield product, owner_url
        product.stop()
    asyncio.run(execute(f"drop database {name} with (force)", f"drop role {login}"))


@dataclass
class Kit:
    """Runs `python -m tests.chaos.against` as an operator would."""

    product: Product
    owner_url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: Process | None = None

    def start(self, *arguments: str) -> Process:
        settings = {
            "TURNKEEP_DATABASE_URL": self.owner_url,
            "TURNKEEP_KEY_PEPPER": PEPPER,
            "TURNKEEP_REDIS_PREFIX": "theirs",
            "TURNKEEP_LEASE_S": "2",
        }
        command = [
            *("-m", "tests.chaos.against"),
            *("--url", f"http://localhost:{self.product.api.port}"),
            *("--redis-url", self.product.valkey.url),
            *("--sessions", "6", "--seed", "5"),
            *("--keep", str(self.folder), "--out", str(self.folder / "report.md")),
            *arguments,
        ]
        self.folder.mkdir(exist_ok=True)
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        self.process = Process("the kit", command, settings | self.environment, log)
        return self.process

    async def run(self, *arguments: str) -> int:
        return await self.start(*arguments).ended(PATIENCE_S)

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def report(self) -> str:
        return (self.folder / "report.md").read_text()

    @property
    def events(self) -> list[h.Event]:
        (file,) = self.folder.glob("history-*.jsonl")
        return h.read(file).events

    async def require_nothing_left(self) -> None:
        async with self.product.postgres() as theirs:
            counted = await theirs.fetchrow(
                "select to_regclass('chaos_transitions') is null as no_table,"
                " not exists (select from pg_trigger where tgname like 'chaos%') as no_trigger,"
                " not exists (select from pg_proc where proname like 'chaos%') as no_function,"
                " not exists (select from tenants where name like $1) as no_tenant,"
                " not exists (select from users u where not exists"
                " (select from tenants where id = u.tenant_id)) as no_user,"
                " not exists (select from turns t where not exists"
                " (select from tenants where id = t.tenant_id)) as no_turn,"
                " not exists (select from messages m where not exists"
                " (select from tenants where id = m.tenant_id)) as no_message,"
                " not exists (select from idempotency_keys i where not exists"
                " (select from tenants where id = i.tenant_id)) as no_key",
                f"{FAMILY}%",
            )
        assert all(counted.values()), dict(counted)


@pytest.fixture
async def kit(deployment: tuple[Product, str], tmp_path: Path) -> AsyncIterator[Kit]:
    product, owner_url = deployment
    await product.be_whole()
    kit = Kit(product, owner_url, tmp_path / "kit")
    yield kit
    if kit.process is not None and kit.process.is_running:
        kit.process.send(signal.SIGKILL)
        await kit.process.ended()


@pytest.fixture
async def stranger(kit: Kit) -> AsyncIterator[str]:
    """A turn of somebody else, which runs."""
    client = kit.product.client
    turn = await submit(client, LONG)
    yield turn["id"]
    await client.post(f"{CHAT}/turns/{turn['id']}/cancel", {})


def script(path: Path, *lines: str) -> str:
    """A command that runs Python."""
    path.write_text("\n".join(lines))
    return f"{sys.executable} {path}"


async def test_killed_workers_break_no_promise(kit: Kit, stranger: str, tmp_path: Path) -> None:
    living = [worker.pid for worker in kit.product.workers]
    kill = script(  # a worker at random may hold nothing just then
        tmp_path / "kill.py",
        "import asyncio, asyncpg, os, signal",
        f"living, owner_url, stranger = {living!r}, {kit.owner_url!r}, {stranger!r}",
        "held = \"select worker_id from turns where status = 'running' and id <> $1\"",
        "async def find():",
        "    connection = await asyncpg.connect(owner_url)",
        "    async with asyncio.timeout(20):",
        "        while True:",
        "            for row in await connection.fetch(held, stranger):",
        "                pid = int(row['worker_id'].split('-')[-2])",
        "                if pid in living:",
        "                    return pid",
        "            await asyncio.sleep(0.02)",
        "os.kill(asyncio.run(find()), signal.SIGKILL)",
    )
    code = await kit.run(
        *("--minutes", "0.15", "--every", "3", "--fault", f"worker={kill}"),
        "--yes-this-is-staging",
    )
    assert code == 0, kit.said
    assert "| faults injected / kinds / seeds | 2 / 1 / 1 |" in kit.report
    assert kit.report.count("exit code 0 after") == 2
    assert "| promises broken | none |" in kit.report
    report = check(kit.events)
    exercised = {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I14", "I16"}
    assert not exercised & set(report.not_exercised), str(report)
    lost = [e for e in kit.events if isinstance(e, h.Transition) and e.crash_count]
    assert lost, "the workers held turns of the kit"
    assert stranger not in {e.turn for e in kit.events if isinstance(e, h.Transition)}
    assert stranger not in {e.turn for e in kit.events if isinstance(e, h.FinalState)}
    await kit.require_nothing_left()
    answer = await kit.product.client.get(f"{CHAT}/turns/{stranger}")
    assert answer.json["status"] == "running"


async def test_a_lost_turn_is_found(kit: Kit, tmp_path: Path) -> None:
    lose = script(
        tmp_path / "lose.py",
        "import asyncio, asyncpg",
        "sql = '''delete from turns where id = (select id from turns where",
        "status = 'completed' and ended_at < now() - interval '1 s'",
        # Not a probe of the kit, which no user has accepted.
        "and idempotency_key is not null order by id desc limit 1)'''",
        "async def lose():",
        f"    connection = await asyncpg.connect({kit.owner_url!r})",
        "    while await connection.execute(sql) == 'DELETE 0':",
        "        await asyncio.sleep(0.1)",
        "asyncio.run(lose())",
    )
    keys = [await kit.product.add_user() for _ in range(2)]
    code = await kit.run(
        *("--minutes", "0.1", "--every", "60", "--fault", f"lose={lose}"),
        *("--api-key", keys[0], "--api-key", keys[1]),
    )
    assert code == 1, kit.said
    assert "| promises broken | I1 |" in kit.report
    assert re.search(r"^- I1 at \d+: .*accepted, and has 0 rows at the end", kit.report, re.M)
    async with kit.product.postgres() as theirs:
        assert await theirs.fetchval("select to_regclass('chaos_transitions') is null")
    assert "stays: turns and usage in 48 threads" in kit.said
    assert (await Client(kit.product.api.port, keys[0]).get(f"{CHAT}/threads")).json["items"] == []


async def test_a_fault_that_does_not_happen_fails_the_run(kit: Kit) -> None:
    code = await kit.run(
        *("--minutes", "0.05", "--every", "60", "--fault", "disk=echo no such | tee; exit 3")
    )
    assert code == 1, kit.said
    assert "disk: the fault did not happen: exit code 3 after" in kit.said + kit.report
    assert "no such" in kit.report
    await kit.require_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_heals_and_removes_all(
    kit: Kit, tmp_path: Path, number: signal.Signals
) -> None:
    broken, healed = tmp_path / "broken", tmp_path / "healed"
    fault = f"slow=touch {broken}; sleep 2; touch {healed}"
    process = kit.start("--minutes", "1", "--fault", fault)
    await wait_until(broken.exists, "the fault has begun", 40)
    os.killpg(process.pid, number)  # as a terminal does
    assert await process.ended(PATIENCE_S) == 130, kit.said
    assert healed.exists()
    await kit.require_nothing_left()


async def test_without_a_fault_it_only_looks(kit: Kit) -> None:
    kit.environment["TURNKEEP_DATABASE_URL"] = kit.owner_url
    assert await kit.run("--minutes", "0.03") == 0, kit.said
    assert "nothing is broken: load and checks alone" in kit.said
    assert "| faults injected / kinds / seeds | 0 / 0 / 1 |" in kit.report
    await kit.require_nothing_left()


async def test_it_does_not_touch_a_deployment_in_use(kit: Kit, stranger: str) -> None:
    assert await kit.run("--minutes", "0.1") == 2
    assert "1 turns of others wait or run there" in kit.said
    await kit.require_nothing_left()


async def test_traces_of_a_killed_run_are_removed_on_request(kit: Kit) -> None:
    process = kit.start("--minutes", "1", "--fault", "none=sleep 60")
    async with kit.product.postgres() as theirs:

        async def has_turns() -> bool:
            return bool(
                await theirs.fetchval(
                    "select count(*) > 20 from turns t join tenants on tenants.id = t.tenant_id"
                    " where tenants.name like $1",
                    f"{FAMILY}%",
                )
            )

        await wait_until(has_turns, "the load runs", 40)
    process.send(signal.SIGKILL)
    await process.ended()
    assert await kit.run("--minutes", "0.1") == 2
    assert "--clean-up" in kit.said
    assert await kit.run("--clean-up") == 0, kit.said
    await kit.require_nothing_left()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("TURNKEEP_KEY_PEPPER", "another pepper of others", "401"),
        ("TURNKEEP_REDIS_PREFIX", "ours", "another one, or TURNKEEP_REDIS_PREFIX"),
        ("TURNKEEP_DATABASE_URL", "", "the owner of the tables"),
    ],
)
async def test_what_cannot_be_tried_is_said(kit: Kit, name: str, value: str, why: str) -> None:
    kit.environment = {name: value or kit.product.database_url}
    assert await kit.run("--minutes", "0.1") == 2, kit.said
    assert "nothing was tried: " in kit.said
    assert why in kit.said
    await kit.require_nothing_left()


async def test_keys_of_one_tenant_are_refused_and_its_own_threads_stay(kit: Kit) -> None:
    client = Client(kit.product.api.port, await kit.product.add_user())
    thread = await make_thread(client)
    assert client.api_key is not None
    twice = ("--api-key", client.api_key) * 2
    assert await kit.run("--minutes", "0.1", *twice) == 2
    assert "different tenants" in kit.said
    shown = (await client.get(f"{CHAT}/threads")).json["items"]
    assert [item["id"] for item in shown] == [thread]
