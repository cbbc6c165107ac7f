"""More scenarios on the whole product: failing models, lost Redis, drains, polling, bad input.

As in `scenarios`: what must hold is asserted, what was measured is returned.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import psutil

from tests.acceptance.client import Answer, Client, check_told, words
from tests.acceptance.product import Api, Product, Worker
from tests.acceptance.talk import (
    CHAT,
    all_of,
    await_end,
    events_path,
    follow,
    follow_with_reconnects,
    get_turn,
    make_thread,
    output_text,
    read_frames,
    require_problem,
    submit,
    turn_body,
)
from tests.fixtures.waiting import wait_until

MODEL: Final = "openai-chat:any"
UNKNOWN: Final = "01900000-0000-7000-8000-00000000dead"


# -- models that fail


@dataclass(frozen=True, slots=True)
class Failures:
    codes: dict[str, str]
    """How the model failed → the turn's `error.code`."""


_FAILING: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "fails at once": ({"deltas": 9, "failAfter": 0}, "model_error"),
    "fails after 3 deltas": ({"deltas": 9, "failAfter": 3}, "model_error"),
    "rate limited": ({"deltas": 9, "failAfter": 1, "failWith": "rate_limited"}, "rate_limited"),
    "wrong key": ({"deltas": 9, "failAfter": 0, "failWith": "model_auth"}, "model_auth"),
    "filtered": ({"deltas": 9, "failAfter": 2, "failWith": "content_filter"}, "content_filter"),
    "hangs before its first token": ({"deltas": 9, "hangAfter": 0}, "timeout"),
    "hangs after 3 deltas": ({"deltas": 9, "hangAfter": 3}, "timeout"),
    "never ends": ({"deltas": 100_000, "intervalMs": 10}, "timeout"),
}
_SHORT: Final = {
    "TURNKEEP_FIRST_TOKEN_TIMEOUT_S": "0.5",
    "TURNKEEP_IDLE_TIMEOUT_S": "0.5",
    "TURNKEEP_TURN_TIMEOUT_S": "2",
}


async def fail_models(product: Product) -> Failures:
    """Every way a model fails or hangs ends its turn as failed, with a code, keeping its text."""
    codes = {}
    async with product.other_workers(1, **_SHORT):
        names = list(_FAILING)
        for name, code in zip(
            names,
            await all_of(_fail_one(product.client, *_FAILING[name]) for name in names),
            strict=True,
        ):
            codes[name] = code
    await product.be_whole()
    return Failures(codes)


async def _fail_one(client: Client, script: dict[str, Any], code: str) -> str:
    turn = await submit(client, {"intervalMs": 1, **script})
    told = await follow(client, turn["id"])
    ended = await await_end(client, turn["id"])
    assert (told.status, ended["status"]) == ("failed", "failed")
    assert ended["error"]["code"] == told.end.json["error"]["code"] == code
    assert ended["error"]["message"]
    assert await output_text(client, ended) == told.text
    said = script.get("failAfter", script.get("hangAfter"))
    if said is not None:
        assert told.text == words(said)
    return str(ended["error"]["code"])


async def fail_providers(product: Product) -> Failures:
    """A provider that refuses connections, and one that accepts and never says a word."""
    codes = {}
    async with _mute_server() as mute_port:
        for name, port, wanted in (
            ("refuses", 9, "model_error"),
            ("is mute", mute_port, "timeout"),
        ):
            settings = {
                "TURNKEEP_OPENAI_CHAT_BASE_URL": f"http://127.0.0.1:{port}/v1",
                "TURNKEEP_OPENAI_CHAT_API_KEY": "none",
                "TURNKEEP_DEFAULT_MODEL": MODEL,  # imported before the worker is ready
                "TURNKEEP_FIRST_TOKEN_TIMEOUT_S": "4",
            }
            async with product.other_workers(1, **settings):
                api = product.start_api(settings)
                await api.ready()
                client = Client(api.port, product.api_key)
                turn = await submit(client, {}, modelId=MODEL)
                frames = await read_frames(client, turn["id"])
                assert frames[-1].json["status"] == "failed"
                codes[name] = frames[-1].json["error"]["code"]
                assert codes[name] == wanted, frames[-1].json
                assert "127.0.0.1" not in frames[-1].json["error"]["message"]
                await product.let_go(api)
    await product.be_whole()
    return Failures(codes)


@asynccontextmanager
async def _mute_server() -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


# -- workers that leave


async def stop_fresh_workers(product: Product, *, times: int) -> None:
    """SIGTERM in the first moments of a worker's life ends it like any other."""
    for number in range(times):
        worker = product.start_worker()
        await worker.ready()
        await asyncio.sleep(0.06 * number / times)
        await product.let_go(worker)


async def stop_impatiently(product: Product, *, times: int) -> None:
    """SIGTERM again and again until the process is gone: its exit code is 0 all the same."""
    for _ in range(times):
        hurried: list[Api | Worker] = [product.start_worker(), product.start_api()]
        for process in hurried:
            await process.ready()
        for process in hurried:
            while process.is_running:
                process.send(signal.SIGTERM)
                await asyncio.sleep(0.001)
            assert process.exit_code == 0, (process.name, process.exit_code)


# -- Redis away


@dataclass(frozen=True, slots=True)
class RedisAway:
    away_s: float
    accepted_meanwhile: int
    slowest_accept_s: float
    streams: int
    snapshots: int
    silence_s: float
    """The longest pause between two events of a stream that was open all the time."""


async def restart_redis(product: Product, *, away_s: float) -> RedisAway:
    """Redis is killed while turns stream, stays away, and comes back empty."""
    client = product.client
    deltas = int((away_s + 1.5) * 50)
    turns = [await submit(client, {"deltas": deltas, "intervalMs": 20}) for _ in range(4)]
    threads = await all_of(make_thread(client) for _ in range(50))
    accepted, took = [], [0.0]
    async with client.stream(events_path(turns[0]["id"])) as stream:
        frames = [await stream.until("message.delta")]
        rest = [asyncio.create_task(read_frames(client, turn["id"])) for turn in turns[1:]]
        first_rest = asyncio.create_task(stream.rest())
        await product.stop_redis()
        until = time.monotonic() + away_s
        while time.monotonic() < until and threads:
            asked_at = time.monotonic()
            accepted.append(await submit(client, {"deltas": 5}, thread=threads.pop()))
            took.append(time.monotonic() - asked_at)
            assert await product.api.readiness() == 200
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        product.start_redis()
        frames += await first_rest
        streams = [frames, *[await one for one in rest]]
    ended = await all_of(await_end(client, turn["id"]) for turn in (*turns, *accepted))
    assert {(turn["status"], turn["attempt"]) for turn in ended} == {("completed", 1)}
    snapshots = sum(any(f.event == "turn.snapshot" for f in one) for one in streams)
    for one in streams[1:]:
        if not any(frame.event == "turn.snapshot" for frame in one):
            assert check_told(one).text == words(deltas)
    if not any(frame.event == "turn.snapshot" for frame in frames):
        assert check_told(frames, after="1-1").text == words(deltas)
    times = [frame.at for frame in frames if frame.event]
    silence_s = max(after - before for before, after in pairwise(times))
    return RedisAway(away_s, len(accepted), max(took), len(streams), snapshots, silence_s)


# -- API processes that leave


@dataclass(frozen=True, slots=True)
class Drain:
    exit_s: float
    readiness: list[int | None]
    """What /readyz said after the signal; None: nobody listens any more."""
    poll_answered_s: float


async def drain_api(product: Product) -> Drain:
    """SIGTERM of an API process with open streams and a long poll: readers go on elsewhere."""
    api = product.start_api()
    await api.ready()
    leaving, staying = Client(api.port, product.api_key), product.client
    turn = await submit(staying, {"deltas": 150, "intervalMs": 20})
    ui_path = f"{CHAT}/threads/{turn['threadId']}/stream"
    path = f"{CHAT}/turns/{turn['id']}"
    async with leaving.stream(events_path(turn["id"])) as stream, leaving.stream(ui_path) as ui:
        frames = [await stream.until("turn.started"), await stream.until("message.delta")]
        poll = asyncio.create_task(leaving.get(path, Prefer="wait=30"))
        await anext(ui)
        asked_at = api.send(signal.SIGTERM)
        readiness = [await api.readiness()]
        while readiness[-1] == 200:
            readiness.append(await api.readiness())
        frames += await stream.rest()
        ui_frames = await ui.rest()
        assert stream.is_complete
        assert ui.is_complete
        answer = await poll
    assert await api.ended() == 0, api.last_words()
    exit_s = time.monotonic() - asked_at
    assert readiness[-1] in {503, None}
    assert frames[-1].event == "stream.reconnect"
    assert ui_frames[-1].json["type"] == "data-turn-reconnect"
    assert (answer.status, answer.json["status"]) == (200, "running")
    product.apis.remove(api)

    cursor = frames[-2].id
    async with staying.stream(events_path(turn["id"]), Last_Event_ID=cursor) as stream:
        told = check_told(frames[:-1] + [f for f in await stream.rest() if f.event])
    assert (told.status, told.text) == ("completed", words(150))
    return Drain(exit_s, readiness, answer.at - asked_at)


@dataclass(frozen=True, slots=True)
class TwoProcesses:
    children: int
    turns: int
    exit_s: float


async def run_two_api_processes(product: Product, *, turns: int = 20) -> TwoProcesses:
    """TURNKEEP_API_PROCESSES=2: both serve, one that dies is replaced, SIGTERM ends all."""
    api = product.start_api({"TURNKEEP_API_PROCESSES": "2"})
    await api.ready()
    client = Client(api.port, product.api_key)

    def children() -> set[int]:
        return {child.pid for child in psutil.Process(api.pid).children()}

    first = await wait_until(lambda: len(children()) == 2 and children(), "there are two")

    async def once() -> None:
        turn = await submit(client, {"deltas": 10, "intervalMs": 5})
        assert (await follow_with_reconnects(client, turn["id"])).text == words(10)

    await all_of(once() for _ in range(turns))
    psutil.Process(min(first)).kill()
    await wait_until(
        lambda: len(children()) == 2 and children() != first, "the dead one is replaced"
    )
    await all_of(once() for _ in range(turns))
    asked_at = api.send(signal.SIGTERM)
    assert await api.ended() == 0, api.last_words()
    exit_s = time.monotonic() - asked_at
    assert not api.kin()
    product.apis.remove(api)
    return TwoProcesses(len(first), 2 * turns, exit_s)


# -- polling and attaching


@dataclass(frozen=True, slots=True)
class Polling:
    long_poll_lag_s: float
    """From the reader's `turn.ended` to the long poll's answer."""


async def poll_and_attach(product: Product) -> Polling:
    """Prefer: wait, ETag, Retry-After, 204 at the end, 410 on an expired log, attach."""
    client, thread = product.client, await make_thread(product.client)
    path = f"{CHAT}/threads/{thread}"
    assert (await client.get(f"{path}/stream")).status == 204
    quick = await client.post(f"{path}/turns", turn_body({"deltas": 2}), Prefer="wait=10")
    assert (quick.status, quick.json["status"]) == (200, "completed")
    assert quick.headers["preference-applied"] == "wait=10"
    assert quick.headers["location"] == f"{CHAT}/turns/{quick.json['id']}"
    assert "retry-after" not in quick.headers

    turn = await submit(client, {"deltas": 60, "intervalMs": 20}, thread=thread)
    async with client.stream(f"{path}/stream") as attached:
        assert attached.status == 200
        assert attached.headers["x-vercel-ai-ui-message-stream"] == "v1"
        lag_s = await _poll_running(client, turn)
        frames = await attached.rest()
    assert frames[-1].data == b"[DONE]"
    deltas = [f.json["delta"] for f in frames[:-1] if f.data and f.json["type"] == "text-delta"]
    assert "".join(deltas) == words(60)
    assert (await client.get(f"{path}/stream")).status == 204
    await _read_after_the_end(product, turn)
    return Polling(lag_s)


async def _poll_running(client: Client, turn: dict[str, Any]) -> float:
    path = f"{CHAT}/turns/{turn['id']}"
    short = await client.get(path, Prefer="wait=0")
    assert short.headers["retry-after"] == "1"
    reading = asyncio.create_task(read_frames(client, turn["id"]))

    async def runs() -> Answer | None:
        answer = await client.get(path)
        return answer if answer.json["status"] == "running" else None

    running: Answer = await wait_until(runs, "the turn runs")
    tag = running.headers["etag"]
    same = await client.get(path, If_None_Match=tag)
    assert (same.status, same.body) == (304, b"")
    assert same.headers["etag"] == tag
    waited = await client.get(path, Prefer="wait=20", If_None_Match=tag)
    assert (waited.status, waited.json["status"]) == (200, "completed")
    assert waited.headers["etag"] != tag
    return waited.at - (await reading)[-1].at


async def _read_after_the_end(product: Product, turn: dict[str, Any]) -> None:
    client, path = product.client, events_path(turn["id"])
    frames = await read_frames(client, turn["id"])
    last = frames[-1].id
    assert (await client.get(f"{path}?after={last}")).status == 204
    assert (await client.get(path, Last_Event_ID=last)).status == 204
    async with client.stream(path, Last_Event_ID=frames[-2].id) as stream:
        assert [f.data for f in await stream.rest() if f.event] == [frames[-1].data]

    await product.flush_redis()
    require_problem(await client.get(f"{path}?after=1-2"), 410)
    require_problem(await client.get(path, Last_Event_ID="1-2"), 410)
    replay = [f for f in await read_frames(client, turn["id"]) if f.event]
    assert [f.event for f in replay] == ["turn.started", "message.delta", "turn.ended"]
    assert replay[1].json["text"] == words(60)
    assert replay[-1].data == frames[-1].data
    assert (await client.get(f"{path}?after={last}")).status == 204


# -- bad input


@dataclass(frozen=True, slots=True)
class BadInput:
    requests: int
    by_status: dict[int, int]
    slowest_s: float


def _json_with(text: bytes) -> bytes:
    return b'{"message":"go","modelId":"scripted",' + text + b"}"


_BODIES: Final[dict[str, bytes | dict[str, Any] | list[Any]]] = {
    "nothing": b"",
    "half an object": b'{"message":',
    "two documents": b"{}{}",
    "not UTF-8": b'{"message":"\xff\xfe"}',
    "NaN": _json_with(b'"settings":{"a":NaN}'),
    "huge number": _json_with(b'"settings":{"a":1' + b"0" * 400 + b"}"),
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep settings": _json_with(b'"settings":' + b'{"a":' * 200 + b"1" + b"}" * 200),
    "duplicate keys": b'{"message":"a","message":"b"}',
    "a list": [],
    "no text": {},
    "blank text": {"message": "  "},
    "NUL": b'{"message":"a\\u0000b"}',
    "NUL in a key": _json_with(b'"settings":{"a\\u0000":1}'),
    "lone surrogate": b'{"message":"\\ud800"}',
    "lone surrogate in settings": _json_with(b'"settings":{"a":"\\udfff"}'),
    "message as number": {"message": 5},
    "message without parts": {"message": {"role": "user"}},
    "messages as text": {"messages": "hello"},
    "last message not the user's": {"messages": [{"role": "assistant", "parts": []}]},
    "part as number": {"messages": [{"role": "user", "parts": [1]}]},
    "file part": {"messages": [{"role": "user", "parts": [{"type": "file", "url": "x"}]}]},
    "settings as list": turn_body(settings=[]),
    "large settings": turn_body(settings={"a": "b" * 20_000}),
    "modelId as number": turn_body(modelId=7),
    "unknown model": turn_body(modelId="nobody:knows"),
    "model without a name": turn_body(modelId="openai:"),
    "unknown onConflict": turn_body(onConflict="panic"),
    "onConflict of later": turn_body(onConflict="interrupt"),
    "empty concurrencyKey": turn_body(concurrencyKey=""),
    "long concurrencyKey": turn_body(concurrencyKey="k" * 256),
    "empty idempotencyKey": turn_body(idempotencyKey=""),
    "long idempotencyKey": turn_body(idempotencyKey="k" * 256),
    "idempotencyKey beyond ASCII": turn_body(idempotencyKey="kéy"),
    "long systemPrompt": turn_body(systemPrompt="s" * 40_000),
    "script with an unknown word": turn_body({"delta": 3}),
    "script with a negative count": turn_body({"deltas": -1}),
    "script with a text as number": turn_body({"deltas": "3"}),
    "script as list": turn_body(settings={"script": []}),
}


async def send_bad_input(product: Product) -> BadInput:
    """Every bad request gets a 4xx in the surface's own shape, and leaves no row."""
    client, thread = product.client, await make_thread(product.client)
    stranger = Client(product.port, await product.add_user())
    turns_before = await _count_rows(product)
    statuses: list[int] = []
    slowest_s = 0.0
    for request in (
        *_bad_bodies(client, thread),
        *_bad_places(client, stranger, thread),
        *_bad_headers(client, thread),
    ):
        began = time.monotonic()
        answer = await request.send()
        slowest_s = max(slowest_s, answer.at - began)
        assert answer.status == request.status, (request.name, answer.status, answer.body[:200])
        detail = require_problem(answer, request.status)
        statuses.append(answer.status)
        if "unknown model" in request.name:
            assert "scripted" in detail[0]["msg"]
    assert await _count_rows(product) == turns_before
    assert (await client.get("/readyz")).status == 200
    await _look_alike(client, stranger, thread)
    by_status = {status: statuses.count(status) for status in sorted(set(statuses))}
    return BadInput(len(statuses), by_status, slowest_s)


@dataclass(frozen=True, slots=True)
class _Bad:
    name: str
    status: int
    client: Client
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] | None = None

    async def send(self) -> Answer:
        return await self.client.request(self.method, self.path, self.body, headers=self.headers)


_RESERVED: Final = {
    "status": turn_body(status="completed"),
    "tenantId": turn_body(tenantId=UNKNOWN),
}
"""Names that only the server sets; a stream's body may have members of any name."""


def _bad_bodies(client: Client, thread: str) -> list[_Bad]:
    paths = (f"{CHAT}/threads/{thread}/turns", f"{CHAT}/threads/{thread}/turns/stream")
    bad = [
        _Bad(name, 422, client, "POST", path, body)
        for name, body in _BODIES.items()
        for path in paths
    ]
    bad += [_Bad(name, 422, client, "POST", paths[0], body) for name, body in _RESERVED.items()]
    large = b'{"message":"' + b"a" * 1_048_576 + b'"}'
    bad += [_Bad("oversize", 413, client, "POST", path, large) for path in paths]
    bad += [_Bad("oversize", 413, client, "POST", f"{CHAT}/threads", large)]
    return bad


def _bad_places(client: Client, stranger: Client, thread: str) -> list[_Bad]:
    bad = []
    for name, who, thread_id, status in (
        ("bad UUID", client, "not-a-uuid", 422),
        ("unknown thread", client, UNKNOWN, 404),
        ("someone else's thread", stranger, thread, 404),
    ):
        path = f"{CHAT}/threads/{thread_id}"
        bad += [
            _Bad(name, status, who, "GET", path),
            _Bad(name, status, who, "GET", f"{path}/turns"),
            _Bad(name, status, who, "GET", f"{path}/messages"),
            _Bad(name, status, who, "GET", f"{path}/stream"),
            _Bad(name, status, who, "POST", f"{path}/turns", turn_body({})),
            _Bad(name, status, who, "POST", f"{path}/turns/stream", turn_body({})),
            _Bad(name, status, who, "POST", f"{path}/turns/cancel", {}),
            _Bad(name, status, who, "DELETE", path),
        ]
    for name, turn_id, status in (("bad UUID", "0", 422), ("unknown turn", UNKNOWN, 404)):
        path = f"{CHAT}/turns/{turn_id}"
        bad += [
            _Bad(name, status, client, "GET", path),
            _Bad(name, status, client, "GET", f"{path}/events"),
            _Bad(name, status, client, "POST", f"{path}/cancel", {}),
        ]
    queries = ("limit=0", "limit=101", "limit=x", "cursor=%00", "cursor=abc", "status=done")
    bad += [_Bad(query, 422, client, "GET", f"{CHAT}/turns?{query}") for query in queries]
    return bad


def _bad_headers(client: Client, thread: str) -> list[_Bad]:
    path, body = f"{CHAT}/threads/{thread}/turns", turn_body({})
    keys = ("", '""', "k" * 256, "tab\there")
    bad = [
        _Bad("Idempotency-Key", 422, client, "POST", path, body, {"Idempotency-Key": key})
        for key in keys
    ]
    wrong = {"Idempotency-Key": "one"}
    two_keys = {**body, "idempotencyKey": "two"}
    bad += [_Bad("two keys", 422, client, "POST", path, two_keys, wrong)]
    text = {"content-type": "text/plain"}
    bad += [_Bad("not JSON", 415, client, "POST", path, b"hello", text)]
    nobody = Client(client.port, None)
    for name, headers in (
        ("no key", {}),
        ("wrong key", {"authorization": f"Bearer vai_sk_{secrets.token_hex(8)}"}),
        ("wrong scheme", {"authorization": "Basic YTpi"}),
        ("wrong X-API-Key", {"x-api-key": "nope"}),
    ):
        bad += [_Bad(name, 401, nobody, "GET", f"{CHAT}/threads", None, headers)]
        bad += [_Bad(name, 401, nobody, "POST", path, b"{", headers)]
    bad += [_Bad("no route", 404, client, "GET", "/api/v1/nothing")]
    bad += [_Bad("no method", 405, client, "PUT", path, body)]
    return bad


async def _count_rows(product: Product) -> tuple[int, int, int]:
    async with product.postgres() as connection:
        row = await connection.fetchrow(
            "select (select count(*) from turns), (select count(*) from messages),"
            " (select count(*) from idempotency_keys)"
        )
    return (row[0], row[1], row[2])


async def _look_alike(client: Client, stranger: Client, thread: str) -> None:
    """What is someone else's and what does not exist get the same answer; cursors are checked."""
    turn = await submit(client, {"deltas": 1}, thread=thread)
    await await_end(client, turn["id"])
    for suffix in ("", "/events"):
        theirs = await stranger.get(f"{CHAT}/turns/{turn['id']}{suffix}")
        missing = await stranger.get(f"{CHAT}/turns/{UNKNOWN}{suffix}")
        assert (theirs.status, theirs.body) == (missing.status, missing.body)
        assert theirs.status == 404
    theirs = await stranger.post(f"{CHAT}/turns/{turn['id']}/cancel", {})
    require_problem(theirs, 404)
    for cursor in ("x", "1", "1-", "-1-2", "1-2-3", "9" * 30 + "-1", "%00"):
        answer = await client.get(f"{events_path(turn['id'])}?after={cursor}")
        require_problem(answer, 422)
    assert (await get_turn(client, turn["id"]))["status"] == "completed"
