"""Secrets and content, marked and then looked for: each may be only where it belongs.

The product runs here under the very Redis user and Postgres role that `SECURITY.md` prescribes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.embedded.valkey import EmbeddedValkey
from shared.jobs import PURGE_IDEMPOTENCY_KEYS, serialize_job
from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection
from shared.redis.keys import Keys
from shared.service.accounts import create_api_key
from shared.service.credentials import PREFIX_OF
from shared.turn.model import CredentialKind
from tests.acceptance.client import Client
from tests.acceptance.product import PEPPER, Product
from tests.acceptance.talk import CHAT, await_end, make_thread, turn_body
from tests.fixtures.servers import scan
from tests.fixtures.waiting import wait_until
from tests.security.conftest import count_rows

pytestmark = pytest.mark.timeout(90)
_BLOCK = re.compile(r"```(?:sql)?\n(.*?)```", re.DOTALL)
_GUIDE = Path("SECURITY.md").read_text()


def mark(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(8)}"


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
async def product(
    valkey: EmbeddedValkey, tmp_path: Path, database_url: str, admin: Any
) -> AsyncIterator[Product]:
    """An API and a worker that may do what `SECURITY.md` grants, and log all they can."""
    acl, grants = _BLOCK.findall(_GUIDE)
    password = mark("password")
    role = f"turnkeep_app_{secrets.token_hex(4)}"
    await admin.execute(grants.replace("turnkeep_app", role).replace("PASSWORD", password))
    redis = RedisConnection(valkey.url)
    assert await redis.call(*acl.replace("PASSWORD", password).split()) == b"OK"
    await redis.close()
    (tmp_path / "tmp").mkdir()
    product = Product(
        tmp_path / "product",
        database_url=database_url,
        valkey=valkey,
        worker_count=1,
        settings={
            "TURNKEEP_DATABASE_URL": re.sub(
                r"^postgresql://(?:[^@/]*@)?", f"postgresql://{role}:{password}@", database_url
            ),
            "TURNKEEP_REDIS_URL": valkey.url.replace("unix://", f"unix://turnkeep:{password}@"),
            "TURNKEEP_LOG_LEVEL": "debug",
            "TURNKEEP_DRAIN_S": "1",
            "TURNKEEP_OPENAI_CHAT_BASE_URL": "http://127.0.0.1:1/v1",
            "OPENAI_API_KEY": mark("provider"),
            "TMPDIR": str(tmp_path / "tmp"),
        },
    )
    try:
        await product.be_whole()
        yield product
        await product.let_go(*product.workers)
        redis = RedisConnection(valkey.url)
        denied = await redis.call("ACL", "LOG")
        await redis.close()
        assert not denied, "SECURITY.md grants too little"
    finally:
        product.stop()
        await admin.execute(f"drop owned by {role}; drop role {role}")


async def test_everything_stays_where_it_belongs(
    product: Product, valkey: EmbeddedValkey, admin: Any, tmp_path: Path
) -> None:
    marks = {
        name: mark(name)
        for name in (
            "prompt", "output", "system", "metadata", "title", "idempotency", "concurrency",
            "tool", "url", "header", "refused", "partial", "wrong-key",
            "mechamental", "kodey", "zylon", "responses",
        )
    }  # fmt: skip
    client = product.client
    answers = await _talk(product, client, marks)
    keys = await _keys_of_surfaces(product, admin)
    answers += await _talk_elsewhere(product, keys, marks)
    for process in (product.api, product.workers[0]):
        assert _listens_at(process.pid) == {"127.0.0.1"}, process.name

    kept = {"prompt", "output", "system", "metadata", "title", "idempotency", "concurrency", "tool"}
    kept |= {"mechamental", "kodey", "zylon", "responses"}
    stored = await _all_rows(admin)
    assert {name for name in marks if marks[name] in stored} == kept | {"partial"}
    secrets_of_all = [product.api_key, *keys.values()]
    assert not [secret for secret in secrets_of_all if secret in stored]

    in_redis = await _all_keys(valkey)
    assert not [secret for secret in secrets_of_all if secret in str(in_redis)]
    for name, value in marks.items():
        places = [key for key, (_, content) in in_redis.items() if value in content or value in key]
        if name in {"output", "tool", "kodey", "zylon", "responses"}:  # an answer repeats them
            assert places, name
            for key in places:
                assert key.endswith(":log"), key
                assert 0 < in_redis[key][0] <= 3600, key
        else:
            assert not places, (name, places)

    told_nobody = [product.api_key, PEPPER, *product.settings.values()]
    told_nobody = [text for text in told_nobody if "canary" in text or text == PEPPER]
    assert len(told_nobody) >= 4
    said = {path.name: path.read_text(errors="replace") for path in _files(tmp_path)}
    said["API metrics"] = (await client.get("/metrics")).body.decode()
    port = product.workers[0].metrics_port
    said["worker metrics"] = (await Client(port, None).get("/metrics")).body.decode()
    said["errors"] = answers
    assert any("turn." in text for name, text in said.items() if name.endswith(".log"))
    for place, text in said.items():
        for value in [*marks.values(), *told_nobody, *secrets_of_all]:
            assert value not in text, (place, value)

    await _require_that_no_job_is_unpickled(product, valkey, tmp_path)


async def _talk(product: Product, client: Client, marks: dict[str, str]) -> str:
    """Uses all of the API with the marks in it; returns the bodies of refusals."""
    thread = (
        await client.post(
            f"{CHAT}/threads",
            {
                "title": marks["title"],
                "systemPrompt": marks["system"],
                "metadata": {marks["metadata"]: marks["metadata"]},
            },
        )
    ).json["id"]
    turns = f"{CHAT}/threads/{thread}/turns"
    script = {
        "text": marks["output"],
        "toolCalls": [{"name": "t", "args": {"a": marks["tool"]}, "error": marks["tool"]}],
    }
    fields = {"message": marks["prompt"], "systemPrompt": marks["system"]}
    for extra in ({}, {"failAfter": 0, "deltas": 2}):
        body = turn_body(script | extra, concurrencyKey=marks["concurrency"], **fields)
        turn = await client.post(
            turns, body, idempotency_key=f"{marks['idempotency']}-{len(extra)}"
        )
        assert turn.status == 202, turn.body
        await await_end(client, turn.json["id"])
    lost = await client.post(turns, {**fields, "modelId": "openai-chat:any"})
    assert (await await_end(client, lost.json["id"]))["status"] == "failed"
    hanging = await client.post(turns, turn_body({"hangAfter": 0, "deltas": 1}))
    cancel = f"{CHAT}/turns/{hanging.json['id']}/cancel"
    await client.post(cancel, {"partialText": marks["partial"]})
    async with client.stream(f"{CHAT}/turns/{hanging.json['id']}/events") as stream:
        await stream.rest()
    refused = [
        await client.post(f"{CHAT}/threads", {"title": marks["refused"] * 100}),
        await client.post(f"{CHAT}/threads", b'{"' + marks["refused"].encode()),
        await client.post(f"{CHAT}/threads", {"metadata": [marks["refused"]]}),
        await client.post(turns, {"message": {"parts": [marks["refused"]]}}),
        await client.post(turns, {"message": "x", "settings": {"script": marks["refused"]}}),
        await client.get(f"{CHAT}/threads?cursor={marks['url']}"),
        await client.get(f"{CHAT}/threads/{marks['url']}"),
        await client.get(f"/{marks['url']}"),
        await client.get(
            f"{CHAT}/turns/{hanging.json['id']}/events", Last_Event_ID=marks["header"]
        ),
        await Client(product.port, marks["wrong-key"]).get(f"{CHAT}/threads?token={marks['url']}"),
    ]
    assert all(400 <= answer.status < 500 for answer in refused), [a.status for a in refused]
    return "\n".join(answer.body.decode() + str(answer.headers) for answer in refused)


async def _keys_of_surfaces(product: Product, admin: Any) -> dict[CredentialKind, str]:
    """Keys of the product's user for the other surfaces."""
    user = await admin.fetchrow("select id, tenant_id from users limit 1")
    async with Database(product.database_url, size=1) as database:
        return {
            kind: await create_api_key(
                database, tenant_id=user["tenant_id"], user_id=user["id"], name="canary",
                pepper=PEPPER.encode(), kind=kind,
            )
            for kind in PREFIX_OF
            if kind is not CredentialKind.API_KEY
        }  # fmt: skip


async def _talk_elsewhere(
    product: Product, keys: dict[CredentialKind, str], marks: dict[str, str]
) -> str:
    """Has something said on each surface, and refused; returns the bodies of refusals."""
    mm = Client(product.port, keys[CredentialKind.MECHAMENTAL])
    ids = {"workspace_id": "w", "app_id": "a", "namespace_id": "n", "thread_id": "t"}
    said = {"role": "user", "content": marks["mechamental"]}
    tenant = (await Client(product.port, product.api_key).get("/api/v1/auth/me")).json
    org = tenant["session"]["organization"]["id"]
    scope = f"/v1/orgs/{org}/workspaces/w/apps/a/namespaces/n/threads/t/messages"
    zylon, app = Client(product.port, keys[CredentialKind.ZYLON]), "/api/v1/app"
    me = (await zylon.get(f"{app}/me")).json
    threads = f"{app}/project/{me['default_project_id']}/thread"
    thread = await zylon.post(threads, {"name": marks["zylon"], "visibility": "Private"})
    asked = {"messages": [{"role": "user", "content": marks["zylon"]}]}
    interactions = f"{app}/thread/{thread.json['id']}/interaction"
    taken = [
        await mm.post(scope, {**ids, **said}),
        await zylon.post(interactions, {"pgpt": asked}),
        await product.client.post("/v1/responses", {"input": marks["responses"]}),
    ]
    refused = [
        await mm.post(scope, b'{"' + marks["refused"].encode()),
        await mm.get(f"{scope}?cursor={marks['url']}"),
        await zylon.get(f"{threads}?after={marks['url']}"),
        await zylon.post(f"{app}/chat", {"messages": [{"role": marks["refused"]}]}),
        await product.client.get(f"/v1/responses/{marks['url']}"),
        await product.client.post("/v1/responses", {"input": "x", "metadata": marks["refused"]}),
    ]
    for kind in (CredentialKind.KODEY_SECRET, CredentialKind.KODEY_PUBLISHABLE):
        kodey = Client(product.port, keys[kind])
        chat = (await kodey.post("/chat", {"agentId": "default", "userId": marks["kodey"]})).json
        taken.append(await kodey.post(f"/chat/{chat['id']}/message", {"content": marks["kodey"]}))
        refused += [
            await kodey.get(f"/chat/{marks['url']}"),
            await kodey.post("/chat", {"agentId": marks["refused"]}),
            await kodey.post("/chat", {"agentId": "default", "metadata": marks["refused"]}),
        ]
    for prefix in PREFIX_OF.values():
        stranger = Client(product.port, prefix + marks["wrong-key"])
        refused += [await stranger.get(path) for path in ("/chat", scope, threads)]
    assert [answer.status for answer in taken] == [201, 201, 200, 200, 200]
    assert all(400 <= answer.status < 500 for answer in refused), [a.status for a in refused]
    return "\n".join(answer.body.decode() + str(answer.headers) for answer in refused)


def _listens_at(pid: int) -> set[str]:
    found = psutil.Process(pid).net_connections("tcp")
    return {connection.laddr.ip for connection in found if connection.status == "LISTEN"}


async def _all_rows(admin: Any) -> str:
    rows = []
    for table in await count_rows(admin):
        rows += await admin.fetch(f'select t::text as row from "{table}" t')  # noqa: S608
    return "\n".join(row["row"] for row in rows)


async def _all_keys(valkey: EmbeddedValkey) -> dict[str, tuple[int, str]]:
    """Key → seconds to live and content."""
    redis = RedisConnection(valkey.url)
    reads: dict[bytes, tuple[Any, ...]] = {
        b"string": ("GET",), b"hash": ("HGETALL",), b"set": ("SMEMBERS",),
        b"zset": ("ZRANGE", 0, -1), b"stream": ("XRANGE", "-", "+"),
    }  # fmt: skip
    found = {}
    for key in await scan(redis, "*"):
        command, *rest = reads[await redis.call("TYPE", key)]
        content = await redis.call(command, key, *rest)
        found[key.decode()] = (await redis.call("TTL", key), str(content))
    await redis.close()
    return found


def _files(directory: Path) -> list[Path]:
    kinds = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in kinds if "valkey" not in path.parts]


async def _require_that_no_job_is_unpickled(
    product: Product, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """A hostile job is only a failed one; the honest one beside it and the next turn are run."""
    redis, queue = RedisConnection(valkey.url), Keys().jobs
    honest: dict[str, Any] = {"f": PURGE_IDEMPOTENCY_KEYS, "a": [], "k": {}, "t": None, "et": 1}
    for name, data in {
        "hostile": pickle.dumps(Hostile(tmp_path / "run")),
        "honest": serialize_job(honest),
    }.items():
        await redis.call("SET", f"arq:job:{name}", data, "EX", 60)
        await redis.call("ZADD", queue, int(time.time() * 1000), name)

    async def is_over() -> bool:
        return not await redis.call("EXISTS", queue)

    await wait_until(is_over, "the worker has looked at the job")
    assert not (tmp_path / "run").exists()
    assert "idempotency_keys.purged" in product.workers[0].log.read_text()
    thread = await make_thread(product.client)
    turn = await product.client.post(f"{CHAT}/threads/{thread}/turns", turn_body({"deltas": 1}))
    assert (await await_end(product.client, turn.json["id"]))["status"] == "completed"
    await redis.close()
    assert pickle.loads(pickle.dumps(Hostile(tmp_path / "run"))) is None  # noqa: S301 - it would
    assert (tmp_path / "run").exists()


async def test_passwords_are_not_logged_when_nobody_answers(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    password = mark("password")
    product = Product(
        tmp_path / "away",
        database_url=f"postgresql://u:{password}@127.0.0.1:1/d",
        valkey=valkey,
        settings={
            "TURNKEEP_REDIS_URL": f"redis://u:{password}@127.0.0.1:1/0",
            "TURNKEEP_LOG_LEVEL": "debug",
        },
    )
    api = product.start_api()
    worker = product.start_worker()
    try:

        async def answers() -> bool:
            api.require_running()
            return await api.readiness() == 503

        await wait_until(answers, "the API answers")
        answer = await Client(api.port, "vai_sk_x").get(f"{CHAT}/threads")
        assert answer.status == 503
        assert password.encode() not in answer.body
        await wait_until(lambda: worker.log.stat().st_size or worker.exit_code, "the worker speaks")
        await asyncio.sleep(0.5)
    finally:
        for process in (api, worker):
            process.send(9)  # type: ignore[arg-type]  # SIGKILL: a start that waits is not tested
            await process.ended()
    for process in (api, worker):
        assert password not in process.log.read_text()
