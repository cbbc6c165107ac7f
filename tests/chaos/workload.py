"""What users do, whatever happens: submit, follow, come back, poll, decide on tool calls, cancel.

Each session is one user of one of the tenants, who never gives up: a submit without a clear answer
is sent again under its idempotency key until there is one. Everything is written to the history.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson

from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from tests.acceptance.client import Answer, Client, Disconnected
from tests.acceptance.client import Frame as ReadFrame
from tests.acceptance.product import PEPPER, Process
from tests.acceptance.talk import CHAT, TERMINAL, events_path
from tests.chaos import history as told
from tests.chaos.arena import Target
from tests.chaos.provider_text import Behaviour, Directive
from tests.fixtures.chance import seeded
from tests.fixtures.waiting import wait_until

PROMPT: Final = "chaos asks"
PROVIDER_MODEL: Final = "openai-chat:chaos"
TENANTS: Final = 3
THREADS: Final = 200
"""Of each tenant."""
KEYS: Final = 6
"""Concurrency keys of each tenant that are fought for."""
ANSWER_S: Final = 12.0
"""A request without an answer for so long is an unknown one."""
QUIET_S: Final = 25.0
"""A stream that says nothing for so long, keep-alives included, is lost."""
GIVE_UP_S: Final = 300.0
_CANARY: Final = re.compile(rb"canary-([0-9a-f-]{36})")
_PAUSE_S: Final = 0.2


class Unresolved(AssertionError):
    """A submit had no clear answer for minutes."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One user of one tenant; both ids are Postgres'."""

    id: str
    user: str
    api_key: str
    threads: list[str]


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that could do no more from `at` on."""

    cause: str
    pid: int
    at: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One turn of a session."""

    tenant: Tenant
    thread: str
    key: str
    concurrency_key: str
    body: dict[str, Any]
    ends: str
    """stream, reconnects, poll, cancel or forget."""
    asks: bool = False
    """It is parked until somebody decides; for who forgets it, the clock does."""

    @property
    def fingerprint(self) -> str:
        return digest(orjson.dumps([self.thread, self.body]))


@dataclass
class Counts:
    """What faults ask for while they last."""

    accepted: int = 0
    refusals: int = 0
    reconnects: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


class Workload:
    """Runs as `async with`; sessions end with it, each at the end of its turn."""

    def __init__(
        self,
        deployment: Target,
        history: told.History,
        tenants: list[Tenant],
        *,
        seed: int,
        sessions: int,
        provider_share: float = 0.0,
        asking_share: float = 0.0,
        label: str = "",
    ) -> None:
        """`asking_share` of the scripted turns ask for approvals, some of which nobody decides: for
        deployments where the clock soon does. `label` is part of all names, of tenants that know
        those of an earlier run.
        """
        self._deployment = deployment
        self.history = history
        self._tenants = tenants
        self._seed = seed
        self._sessions = sessions
        self._provider_share = provider_share
        self._asking_share = asking_share
        self._label = label
        self._chance = seeded(seed)
        self._counts = Counts()
        self._stopping = asyncio.Event()
        self._names = 0
        self.kills: list[Kill] = []

    @property
    def accepted(self) -> int:
        return self._counts.accepted

    @property
    def refusals(self) -> int:
        return self._counts.refusals

    @property
    def reconnects(self) -> int:
        return self._counts.reconnects

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sessions are at work within the block; leaving it waits for the turns under way."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._sessions):
                group.create_task(self._session(number))
            try:
                yield
            finally:
                self._stopping.set()

    # -- what faults need to know

    @property
    def tenant(self) -> Tenant:
        """The first one."""
        return self._tenants[0]

    @property
    def client(self) -> Client:
        """Of the first tenant, to the first API, past its link."""
        return Client(self._deployment.apis[0].port, self._tenants[0].api_key)

    def any_client(self, tenant: Tenant | None = None) -> Client:
        """Through a link to any of the APIs."""
        link = self._chance.choice(self._deployment.client_links)
        return Client(link.port, (tenant or self._tenants[0]).api_key)

    def note_kill(self, process: Process, cause: str, at_s: float) -> None:
        """From then on the process did nothing more; what it held must be taken over."""
        at = int(at_s * 1e9)
        self.kills.append(Kill(cause, process.pid, at))
        self.history.append(told.Signalled(at=at, pid=process.pid, signal="SIGKILL"))

    def note_drain(self, process: Process, at_s: float) -> None:
        """From then on the process claims nothing."""
        self.history.append(told.Signalled(at=int(at_s * 1e9), pid=process.pid, signal="SIGTERM"))

    async def holds(self, process: Process) -> bool:
        """Whether a process holds a turn."""
        async with self._deployment.admin() as admin:
            return bool(
                await admin.fetchval(
                    "select exists (select from turns"
                    " where status = 'running' and worker_id like $1)",
                    f"%-{process.pid}-%",
                )
            )

    async def until_held(self, *processes: Process) -> None:
        """Until each of them (by default every worker) holds a turn."""
        for process in processes or self._deployment.workers:

            async def is_held(process: Process = process) -> bool:
                return await self.holds(process)

            await wait_until(is_held, f"{process.name} holds a turn", 30)

    async def until_flowing(self, patience_s: float = 40.0) -> float:
        """Until a turn goes through each API; the seconds that took."""
        began = time.monotonic()
        for api in self._deployment.apis:
            client = Client(api.port, self._tenants[0].api_key)

            async def flows(client: Client = client) -> bool:
                return await self._probe(client)

            await wait_until(flows, f"{api.name} works again", patience_s)
        return time.monotonic() - began

    async def _probe(self, client: Client) -> bool:
        thread = self._tenants[0].threads[0]
        body = {
            "message": f"{PROMPT} {self.next_name()}",
            "modelId": "scripted",
            "settings": {"script": {"deltas": 1, "intervalMs": 0}},
            "concurrencyKey": self.next_name(),
        }
        try:
            async with asyncio.timeout(5):
                answer = await client.post(f"{CHAT}/threads/{thread}/turns", body)
                if answer.status != 202:
                    return False
                path = f"{CHAT}/turns/{answer.json['id']}"
                answer = await client.get(path, Prefer="wait=3")
        except (OSError, TimeoutError):
            return False
        return answer.status == 200 and answer.json["status"] == "completed"

    async def until_grown(
        self, read: Callable[[], Awaitable[float]], start: float, *, patience_s: float
    ) -> bool:
        """Whether a figure grows beyond `start` in time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if await read() > start:
                return True
            await asyncio.sleep(_PAUSE_S)
        return False

    async def count_ended(self) -> int:
        """Turns that have ended, as Postgres has them."""
        async with self._deployment.admin() as admin:
            return int(
                await admin.fetchval("select count(*) from turns where ended_at is not null")
            )

    async def count_takeovers(self, process: Process) -> int:
        """Turns that were taken from a worker."""
        async with self._deployment.admin() as admin:
            return int(
                await admin.fetchval(
                    "select count(*) from chaos_transitions"
                    " where old_worker_id like $1 and crash_count > old_crash_count",
                    f"%-{process.pid}-%",
                )
            )

    # -- a session

    async def _session(self, number: int) -> None:
        chance = seeded(self._seed * 1_000 + number)
        await asyncio.sleep(chance.random())
        while not self._stopping.is_set():
            plan = self._plan(chance)
            turn = await self._submit(plan)
            if turn is None:
                continue
            if plan.asks and plan.ends in ("stream", "reconnects", "poll"):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._decide_all(plan, turn, chance))
                    await self._see_it_end(plan, turn, chance)
            elif plan.ends != "forget":
                await self._see_it_end(plan, turn, chance)
            if chance.random() < 0.05:
                await self._spy(plan, turn)

    def _plan(self, chance: Any) -> Plan:
        tenant = chance.choice(self._tenants)
        name = self.next_name()
        fought_for = chance.random() < 0.3
        concurrency_key = f"{tenant.id}-{chance.randrange(KEYS)}" if fought_for else ""
        ends = chance.choices(
            ("stream", "reconnects", "poll", "cancel", "forget"), (35, 25, 15, 15, 10)
        )[0]
        deltas = 400 if ends == "cancel" else chance.choice((3, 5, 10, 20, 40, 100))
        asks = False
        body: dict[str, Any] = {"message": f"{PROMPT} {name} canary-{tenant.id} "}
        if chance.random() < self._provider_share:
            calls = (Behaviour(deltas=deltas, per_second=100),)
            ask = Directive(turn=name, canary=f"canary-{tenant.id}", calls=calls)
            body |= {"message": body["message"] + ask.prompt(), "modelId": PROVIDER_MODEL}
        else:
            text = "".join(f"{n}:canary-{tenant.id} " for n in range(min(deltas, 50)))
            script = {"text": text, "deltas": deltas, "intervalMs": chance.choice((1, 5, 10))}
            asks = chance.random() < self._asking_share
            if asks:
                call = {"name": "pay", "args": {"for": f"canary-{tenant.id}"}, "result": "paid"}
                script["approval"] = {
                    "text": f"may I, canary-{tenant.id} ",
                    "calls": [call] * chance.choice((1, 2)),
                    "times": chance.choice((1, 1, 2)),
                }
            body |= {"modelId": "scripted", "settings": {"script": script}}
        if concurrency_key:
            body["concurrencyKey"] = concurrency_key
        return Plan(tenant, chance.choice(tenant.threads), name, concurrency_key, body, ends, asks)

    def next_name(self) -> str:
        self._names += 1
        return f"t{self._seed}{self._label}-{self._names}"

    async def _submit(self, plan: Plan) -> str | None:
        """The id of the accepted turn; None when it was refused for good."""
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            began = told.now()
            answer = await self._ask(
                plan.tenant,
                "POST",
                f"{CHAT}/threads/{plan.thread}/turns",
                plan.body,
                {"Idempotency-Key": plan.key},
            )
            outcome: told.Outcome = "unknown"
            turn = status = ""
            if answer is not None and answer.status in (200, 202):
                outcome, turn, status = "ok", answer.json["id"], answer.json["status"]
                self._counts.accepted += 1
            elif answer is not None and answer.status < 500:
                outcome = "fail"
            self.history.append(
                told.Accept(
                    began=began,
                    at=told.now(),
                    outcome=outcome,
                    tenant=plan.tenant.id,
                    turn=turn,
                    user=plan.tenant.user,
                    key=plan.key,
                    fingerprint=plan.fingerprint,
                    concurrency_key=plan.concurrency_key,
                    http=0 if answer is None else answer.status,
                    status=status,
                    replayed=answer is not None
                    and answer.headers.get("idempotency-replayed") == "true",
                    retry_after_s=_retry_after(answer),
                )
            )
            if outcome == "ok":
                return turn
            self._counts.refusals += 1
            if outcome == "fail" and answer is not None and answer.status != 429:
                raise AssertionError(f"a good submit was refused: {answer.status} {answer.body!r}")
            await asyncio.sleep(_PAUSE_S)
        raise Unresolved(plan.key)

    async def _see_it_end(self, plan: Plan, turn: str, chance: Any) -> None:
        match plan.ends:
            case "cancel":
                follow = asyncio.create_task(self._follow(plan, turn, chance, leaves=False))
                await asyncio.sleep(chance.random())
                await self._cancel(plan, turn)
                await follow
            case "poll":
                await self._poll(plan, turn)
            case _:
                await self._follow(plan, turn, chance, leaves=plan.ends == "reconnects")
        await self._get(plan.tenant, turn)

    async def _decide_all(self, plan: Plan, turn: str, chance: Any) -> None:
        """Decides whenever the turn asks, until it has ended."""
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            answer = await self._get(plan.tenant, turn)
            if answer is not None and answer.status == 200:
                if answer.json["status"] in TERMINAL:
                    return
                if answer.json["status"] == "awaiting_approval":
                    calls = [action["toolCallId"] for action in answer.json["approvals"]]
                    await self._decide(plan, turn, {c: chance.random() < 0.7 for c in calls})
            await asyncio.sleep(_PAUSE_S)
        raise Unresolved(turn)

    async def _decide(self, plan: Plan, turn: str, decisions: dict[str, bool]) -> None:
        """Says it until there is an answer; 409 where the clock was first."""
        body = {"decisions": [{"toolCallId": c, "approved": y} for c, y in decisions.items()]}
        said = " ".join(f"{call}={'yes' if yes else 'no'}" for call, yes in decisions.items())
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            began = told.now()
            answer = await self._ask(plan.tenant, "POST", f"{CHAT}/turns/{turn}/actions", body, {})
            is_ok = answer is not None and answer.status == 200
            is_late = answer is not None and answer.status == 409
            self.history.append(
                told.Decide(
                    began=began,
                    at=told.now(),
                    outcome="ok" if is_ok else "fail" if is_late else "unknown",
                    tenant=plan.tenant.id,
                    turn=turn,
                    decisions=said,
                    http=0 if answer is None else answer.status,
                )
            )
            if is_ok or is_late:
                return
            await asyncio.sleep(_PAUSE_S)
        raise Unresolved(turn)

    async def _poll(self, plan: Plan, turn: str) -> None:
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            answer = await self._get(plan.tenant, turn, Prefer="wait=5")
            if answer is not None and answer.status == 200 and answer.json["status"] in TERMINAL:
                return
            if answer is None or answer.status != 200:
                await asyncio.sleep(_PAUSE_S)
        raise Unresolved(turn)

    async def _get(self, tenant: Tenant, turn: str, **headers: str) -> Answer | None:
        began = told.now()
        answer = await self._ask(tenant, "GET", f"{CHAT}/turns/{turn}", None, headers)
        is_turn = answer is not None and answer.status == 200
        if answer is not None and is_turn:
            self._note_reply("get turn", turn, answer)
        self.history.append(
            told.Get(
                began=began,
                at=told.now(),
                outcome="unknown" if answer is None or answer.status >= 500 else "ok",
                tenant=tenant.id,
                turn=turn,
                http=0 if answer is None else answer.status,
                status=answer.json["status"] if answer is not None and is_turn else "",
                attempt=answer.json["attempt"] if answer is not None and is_turn else 0,
                owner=owner(answer.body) if answer is not None else "",
            )
        )
        return answer

    async def _spy(self, plan: Plan, turn: str) -> None:
        """Another tenant asks for it."""
        others = [tenant for tenant in self._tenants if tenant is not plan.tenant]
        await self._get(others[0], turn)

    async def _cancel(self, plan: Plan, turn: str) -> None:
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            began = told.now()
            answer = await self._ask(plan.tenant, "POST", f"{CHAT}/turns/{turn}/cancel", {}, {})
            is_ok = answer is not None and answer.status == 200
            self.history.append(
                told.Cancel(
                    began=began,
                    at=told.now(),
                    outcome="ok" if is_ok else "unknown",
                    tenant=plan.tenant.id,
                    turn=turn,
                    http=0 if answer is None else answer.status,
                    status=answer.json["status"] if answer is not None and is_ok else "",
                )
            )
            if answer is not None and is_ok:
                self._note_reply("cancel", turn, answer)
                return
            await asyncio.sleep(_PAUSE_S)
        raise Unresolved(turn)

    def _note_reply(self, link: str, turn: str, answer: Answer) -> None:
        told_of = answer.json["id"]
        self.history.append(told.Reply(at=told.now(), link=link, asked=turn, told=told_of))

    # -- a reader

    async def _follow(self, plan: Plan, turn: str, chance: Any, *, leaves: bool) -> None:
        """Reads a turn's stream to its end, over as many connections as that takes."""
        chain, cursor, number = f"{turn}/{self.next_name()}", "0-0", 0
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            quota = chance.randint(1, 30) if leaves else None
            number += 1
            reader = Reader(self.history, plan.tenant, chain, f"{chain}/{number}", turn)
            client = self.any_client(plan.tenant)
            cursor = await reader.read(client, cursor, quota)
            if reader.has_ended:
                return
            if reader.is_gone:
                # What the cursor points into was lost with Redis: as documented, begin anew.
                chain, cursor, number = f"{turn}/{self.next_name()}", "0-0", 0
            self._counts.reconnects += 1
            if reader.failed:
                await asyncio.sleep(_PAUSE_S)
        raise Unresolved(turn)

    async def _ask(
        self, tenant: Tenant, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> Answer | None:
        """An answer, or None when there was none."""
        try:
            async with asyncio.timeout(ANSWER_S):
                client = self.any_client(tenant)
                return await client.request(method, path, body, headers=headers)
        except (OSError, TimeoutError, Disconnected):
            return None


class Reader:
    """One connection of a chain."""

    def __init__(
        self,
        history: told.History,
        tenant: Tenant,
        chain: str,
        connection: str,
        turn: str,
        credential: str = "",
    ) -> None:
        self.history = history
        self._tenant = tenant
        self._chain = chain
        self._connection = connection
        self._turn = turn
        self._credential = credential
        self.has_ended = False
        self.failed = False
        self.is_gone = False

    async def read(self, client: Client, after: str, quota: int | None) -> str:
        """Reads at most `quota` events; returns the cursor to go on from."""
        cursor = after
        cause: told.Cause = "lost"
        began = told.now()
        is_open = False
        try:
            async with client.stream(events_path(self._turn), Last_Event_ID=after) as stream:
                self._connected(began, after, stream.status)
                is_open = stream.status == 200
                self.failed = not is_open
                self.is_gone = stream.status == HTTPStatus.GONE
                if not is_open:
                    return cursor
                while quota != 0:
                    async with asyncio.timeout(QUIET_S):
                        frame = await anext(stream, None)
                    if frame is None:
                        cause = "ended" if stream.is_complete else "lost"
                        break
                    self._note(frame)
                    cursor = frame.id or cursor
                    self.has_ended |= frame.event == "turn.ended"
                    if quota is not None and frame.id:
                        quota -= 1
                else:
                    cause = "left"
        except (OSError, TimeoutError, Disconnected):
            self.failed = True
            if not is_open:
                self._connected(began, after, 0)
        finally:
            if is_open:
                self.history.append(
                    told.Disconnect(at=told.now(), connection=self._connection, cause=cause)
                )
        return cursor

    def _connected(self, began: int, after: str, status: int) -> None:
        self.history.append(
            told.Connect(
                began=began,
                at=told.now(),
                outcome="ok" if status == 200 else "unknown",
                tenant=self._tenant.id,
                chain=self._chain,
                connection=self._connection,
                turn=self._turn,
                credential=self._credential,
                after=after,
                http=status,
            )
        )

    def _note(self, frame: ReadFrame) -> None:
        attempt, _, seq = frame.id.partition("-")
        text = status = ""
        if frame.event in ("message.delta", "turn.snapshot"):
            text = frame.json["text"]
        elif frame.event == "turn.ended":
            status = frame.json["status"]
        self.history.append(
            told.Frame(
                at=int(frame.at * 1e9),
                connection=self._connection,
                type=frame.event or ("" if frame.id else "comment"),
                attempt=int(attempt or 0),
                seq=int(seq or 0),
                digest=digest(frame.data) if frame.data else "",
                text=text,
                status=status,
                owner=owner(frame.data),
            )
        )


def owner(data: bytes) -> str:
    """The tenant whose canary is in there; "" when there is none, all of them when several."""
    return "+".join(sorted({name.decode() for name in _CANARY.findall(data)}))


def digest(data: bytes) -> str:
    return hashlib.blake2s(data, digest_size=8).hexdigest()


def _retry_after(answer: Answer | None) -> float | None:
    value = None if answer is None else answer.headers.get("retry-after")
    return None if value is None else float(value)


async def make_tenants(
    deployment: Target,
    *,
    name: str = "tenant",
    pepper: bytes = PEPPER.encode(),
    threads: int = THREADS,
) -> list[Tenant]:
    """Tenants `name 0`, `name 1`, … with a user and threads each, ready to be used."""
    return [
        await _make_tenant(deployment, f"{name} {number}", pepper, threads)
        for number in range(TENANTS)
    ]


async def _make_tenant(deployment: Target, name: str, pepper: bytes, threads: int) -> Tenant:
    async with Database(deployment.database_url, size=1) as database:
        tenant_id = await create_tenant(database, name)
        user_id = await create_user(database, tenant_id, "user@example.org", name)
        api_key = await create_api_key(
            database, tenant_id=tenant_id, user_id=user_id, name=name, pepper=pepper
        )
    made = await make_threads(Client(deployment.apis[0].port, api_key), threads)
    return Tenant(str(tenant_id), str(user_id), api_key, made)


async def make_threads(client: Client, count: int) -> list[str]:
    """Their ids."""
    threads = []
    for _ in range(count):
        answer = await client.post(f"{CHAT}/threads", {})
        assert answer.status == 201, answer.body
        threads.append(answer.json["id"])
    return threads
