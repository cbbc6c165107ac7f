"""Random lives of turns over the real SQL and the real scripts, against a model in plain Python.

Two workers, each possibly a zombie at any time; Redis is emptied, rolled back and rebuilt; what
Redis was told may be lost. After every step the rows and the logs are held against the invariants
(numbers as in the reliability notes): I2 one end, I4 fencing, I5 and I9 logs, I6 limits, I7 order,
I8 idempotency. At the end everything must come to an end (I1, I3).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch
from uuid import UUID

import asyncpg
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.errors import ApprovalConflict, IdempotencyKeyReused
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection
from shared.redis.control import Control
from shared.redis.dispatch import CommandConnection, Dispatch, LineChange
from shared.redis.event_log import EventLog, LogReply
from shared.redis.keys import Keys
from shared.redis.scripts import Word
from shared.redis.subscriber import Subscriber
from shared.redis.turn_feed import TurnFeed
from shared.service.accept import accept_arguments
from shared.service.approvals import ApprovalService
from shared.service.backlog import Backlog, Limits
from shared.service.cancel import CancelService
from shared.service.ends import TurnEnds
from shared.service.follow import FollowHub
from shared.service.new_turn import compose_turn
from shared.service.turns import TurnService
from shared.turn.approval import Decision
from shared.turn.events import START, MessageDelta, Usage, encode_event, is_ended
from shared.turn.model import NewTurn, Principal, Turn
from shared.turn.state import TERMINAL, TurnStatus
from tests.fixtures.servers import scan, with_database
from tests.fixtures.system import add_principal, add_thread
from worker import sweeper as sweeper_module
from worker.reaper import Reaper
from worker.sweeper import Sweeper
from worker.turn_claims import TurnClaims

LIMITS = {"narrow": 1, "wide": 2}
WORKERS = ("w1", "w2")
BUDGET = 3
END = b'{"type":"turn.ended","status":"completed"}'


def said(attempt: int, seq: int) -> bytes:
    """What an attempt says at a place: whoever reads it can tell where it belongs."""
    return encode_event(MessageDelta(text=f"{attempt}-{seq} "))


@dataclass
class Servers:
    """What all examples of one test share."""

    runner: asyncio.Runner
    admin: Any
    database: Database
    redis: RedisConnection
    redis_url: str


@dataclass
class ModelTurn:
    """What a turn must look like in Postgres."""

    id: UUID
    key: str
    order: int
    status: TurnStatus = TurnStatus.PENDING
    attempt: int = 0
    crashes: int = 0
    worker: str | None = None
    wants_cancel: bool = False
    parked: int = 0
    """How often."""

    @property
    def holds_slot(self) -> bool:
        return self.status in {TurnStatus.RUNNING, TurnStatus.AWAITING_APPROVAL}


@dataclass
class Attempt:
    """What a worker believes that it runs; it may be long over."""

    turn: ModelTurn
    attempt: int
    worker: str
    generation: str | None
    payloads: list[bytes] = field(default_factory=list)
    is_open: bool = False
    written: int = 0

    @property
    def is_current(self) -> bool:
        turn = self.turn
        return (turn.status, turn.attempt) == (TurnStatus.RUNNING, self.attempt)


class Lives(RuleBasedStateMachine):
    servers: Servers

    def run(self, work: Any) -> Any:
        return self.servers.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.turns: dict[UUID, ModelTurn] = {}
        self.accepted: dict[str, tuple[UUID, int]] = {}
        self.decided: dict[tuple[UUID, str], bool | None] = {}
        self.attempts: list[Attempt] = []
        self.saved: dict[bytes, bytes] | None = None
        self.run(self._begin())

    async def _begin(self) -> None:
        servers = self.servers
        self.keys = Keys(prefix=f"m-{secrets.token_hex(6)}")
        self.principal: Principal = await add_principal(servers.admin)
        self.thread = await add_thread(servers.admin, self.principal)
        for key, limit in LIMITS.items():
            await servers.admin.execute(
                "insert into concurrency_limits values ($1, $2, $3)",
                self.principal.tenant_id,
                key,
                limit,
            )
        self.connection = CommandConnection(servers.redis_url, self.keys)
        self.dispatch = Dispatch(self.connection, self.keys)
        self.log = EventLog(self.connection, self.keys, max_bytes=10**6, live_ttl_s=300, ttl_s=300)
        control = Control(self.connection, self.keys)
        hub = FollowHub(
            database=servers.database,
            feed=TurnFeed(Subscriber(servers.redis_url), self.keys),
            event_log=self.log,
            buffer_bytes=1,
        )
        self.service = TurnService(
            database=servers.database,
            dispatch=self.dispatch,
            hub=hub,
            backlog=Backlog(Limits(0, 0, 0, deadline_s=1000.0)),
            queue_ttl_s=1000.0,
            metrics=Metrics(),
        )
        ends = TurnEnds(database=servers.database, dispatch=self.dispatch, event_log=self.log)
        self.cancels = CancelService(
            database=servers.database,
            control=control,
            hub=hub,
            turns=self.service,
            ends=ends,
            metrics=Metrics(),
            wait_s=0.1,
        )
        self.sweeper = Sweeper(
            database=servers.database,
            dispatch=self.dispatch,
            turns=self.service,
            ends=ends,
            metrics=Metrics(),
            interval_s=1.0,
        )
        self.reaper = Reaper(
            database=servers.database,
            dispatch=self.dispatch,
            control=control,
            ends=ends,
            metrics=Metrics(),
            worker_id="reaper",
            interval_s=1.0,
            lease_s=60.0,
            crash_budget=BUDGET,
        )
        await self.dispatch.begin_generation()

    # -- accept: I8

    @rule(
        key=st.sampled_from(sorted(LIMITS)),
        idempotency_key=st.integers(0, 7),
        body=st.sampled_from([0, 0, 0, 1]),
        announced=st.sampled_from([True, True, False]),
    )
    def accept(self, key: str, idempotency_key: int, body: int, announced: bool) -> None:
        name = f"{key}{idempotency_key}"
        new = self._new_turn(key, name, body)
        known = self.accepted.get(name)
        if known is not None and known[1] != body:
            with pytest.raises(IdempotencyKeyReused):
                self.run(self._submit(new, announced=True))
            return
        turn_id, replayed = self.run(self._submit(new, announced=announced or known is not None))
        assert replayed == (known is not None)
        if known is not None:
            assert turn_id == known[0]
        else:
            self.accepted[name] = (turn_id, body)
            self.turns[turn_id] = ModelTurn(turn_id, key, len(self.turns))

    def _new_turn(self, key: str, idempotency_key: str, body: int) -> NewTurn:
        return compose_turn(
            self.principal,
            self.thread,
            "text",
            scope="test",
            key=idempotency_key,
            asked=body,
            model_id="scripted",
            names_model=True,
            settings={},
            concurrency_key=key,
        )

    async def _submit(self, new: NewTurn, *, announced: bool) -> tuple[UUID, bool]:
        if not announced:  # the API process dies behind the commit
            row = await self.service._accepts.run(*accept_arguments(new, self.service._queue_ttl_s))
            assert row is not None
            return row["id"], False
        accepted = await self.service.submit(new)
        await self.service.close()
        return accepted.turn.id, accepted.replayed

    # -- claim: I6 and I7

    @rule(worker=st.sampled_from(WORKERS), most=st.integers(1, 3))
    def claim(self, worker: str, most: int) -> None:
        self.run(self._claim(worker, most))

    async def _claim(self, worker: str, most: int) -> int:
        ready = await self.dispatch.take_ready(most)
        if ready is None or not ready.turn_ids:
            return 0
        claims = TurnClaims(
            database=self.servers.database,
            dispatch=self.dispatch,
            metrics=Metrics(),
            worker_id=worker,
            lease_s=60.0,
        )
        claimed = await claims.claim(ready.turn_ids)
        for turn in claimed:
            model = self.turns[turn.id]
            assert model.status is TurnStatus.PENDING
            assert turn.attempt == model.attempt + 1, "I4: attempts rise by one"
            earlier = [
                other
                for other in self.turns.values()
                if other.key == model.key
                and other.status is TurnStatus.PENDING
                and other.order < model.order
            ]
            assert not earlier, "I7: an earlier turn of the key waits"
            holding = [t for t in self.turns.values() if t.key == model.key and t.holds_slot]
            assert len(holding) < LIMITS[model.key], "a parked turn keeps its place"
            model.status, model.attempt, model.worker = TurnStatus.RUNNING, turn.attempt, worker
            self.attempts.append(Attempt(model, turn.attempt, worker, ready.generation))
        refused = set(ready.turn_ids) - {turn.id for turn in claimed}
        if refused:
            await claims.settle_refused(refused)
        return len(claimed)

    # -- run: I5

    @precondition(lambda self: self.attempts)
    @rule(place=st.integers(0, 20), count=st.integers(1, 3))
    def append(self, place: int, count: int) -> None:
        attempt = self.attempts[place % len(self.attempts)]
        for _ in range(count):
            seq = len(attempt.payloads) + 1
            attempt.payloads.append(said(attempt.attempt, seq))
        self.run(self._flush_attempt(attempt, final=False))

    async def _flush_attempt(self, attempt: Attempt, *, final: bool) -> None:
        if not attempt.is_current and not final:
            await self._late_write(attempt)
            return
        for _ in range(3):
            reply = await self._write(attempt, final=final)
            if reply.word in {Word.OK, Word.DUP}:
                attempt.is_open, attempt.written = True, reply.last_seq
                assert attempt.written == len(attempt.payloads)
                return
            assert reply.word in {Word.NOSTATE, Word.STALEGEN}, f"a living attempt met {reply}"
            attempt.is_open, attempt.written = False, 0
            attempt.generation = await self.dispatch.read_generation()
            if attempt.generation is None:
                return  # nobody has rebuilt Redis yet
            rows = await self.servers.database.fetch_many(
                "validate_attempts", [attempt.turn.id], [attempt.attempt]
            )
            assert bool(rows) == attempt.is_current
        pytest.fail("the log does not open")

    async def _write(self, attempt: Attempt, *, final: bool) -> LogReply:
        turn_id, rest = attempt.turn.id, attempt.payloads[attempt.written :]
        if attempt.is_open:
            return await self.log.append(
                turn_id, attempt.attempt, attempt.written + 1, rest, final=final
            )
        if attempt.generation is None:
            return LogReply(Word.STALEGEN, 0)
        return await self.log.open(
            turn_id, attempt.attempt, attempt.generation, attempt.payloads, final=final
        )

    async def _late_write(self, attempt: Attempt) -> None:
        """A zombie writes: accepted only until somebody else opens or ends the turn's log."""
        before = await self._read_log(attempt.turn.id)
        reply = await self._write(attempt, final=False)
        if reply.word is Word.OK:
            newest = max((place[0] for place, _ in before), default=0)
            assert newest <= attempt.attempt, "I5: behind a newer attempt"
            assert not any(is_ended(payload) for _, payload in before), "I11: behind the end"
            attempt.is_open, attempt.written = True, reply.last_seq
        else:
            self.attempts.remove(attempt)

    @precondition(lambda self: self.attempts)
    @rule(
        place=st.integers(0, 20),
        status=st.sampled_from([TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED]),
        published=st.sampled_from([True, True, False]),
    )
    def end(self, place: int, status: TurnStatus, published: bool) -> None:
        attempt = self.attempts.pop(place % len(self.attempts))
        self.run(self._end(attempt, status, published=published))

    async def _end(self, attempt: Attempt, status: TurnStatus, *, published: bool) -> None:
        turn = attempt.turn
        row = await self.servers.database.fetch_one(
            "end_turns", [turn.id], [self.principal.tenant_id], [attempt.attempt], [status], [None],
            [None], [Usage().model_dump_json(by_alias=True)], [len(attempt.payloads) + 1], [None],
            ["[]"], [None], [self.thread],
        )  # fmt: skip
        assert (row is not None) == attempt.is_current, (
            "I2/I4: only the present attempt ends a turn"
        )
        if row is None:
            return
        attempt.payloads.append(END)
        if published:
            await self._flush_end(attempt)
            await self.dispatch.settle(
                LineChange(self.principal.tenant_id, turn.key, LIMITS[turn.key], over=[turn.id])
            )
        turn.status, turn.worker = status, None

    async def _flush_end(self, attempt: Attempt, *, final: bool = True) -> None:
        for _ in range(3):
            reply = await self._write(attempt, final=final)
            if reply.word in {Word.OK, Word.DUP}:
                return
            assert reply.word in {Word.NOSTATE, Word.STALEGEN}
            attempt.is_open, attempt.written = False, 0
            attempt.generation = await self.dispatch.read_generation()
            if attempt.generation is None:
                return

    # -- approvals

    @precondition(lambda self: self.attempts)
    @rule(place=st.integers(0, 20), published=st.booleans())
    def park(self, place: int, published: bool) -> None:
        attempt = self.attempts.pop(place % len(self.attempts))
        self.run(self._park(attempt, published=published))

    async def _park(self, attempt: Attempt, *, published: bool) -> None:
        turn = attempt.turn
        row = await self.servers.database.fetch_one(
            "park_turn", turn.id, self.principal.tenant_id, attempt.attempt, {},
            len(attempt.payloads) + 1, [], None,
            [{"tool_call_id": f"call-{turn.parked}", "tool_name": "pay", "args": {}}], 1000.0,
            self.thread,
        )  # fmt: skip
        may_park = attempt.is_current and not turn.wants_cancel
        assert (row is not None) == may_park, "I4: only the present attempt parks a turn"
        if row is None:
            if attempt.is_current:
                self.attempts.append(attempt)
            return
        turn.status, turn.worker, turn.parked = TurnStatus.AWAITING_APPROVAL, None, turn.parked + 1
        if published:
            attempt.payloads.append(said(attempt.attempt, len(attempt.payloads) + 1))
            await self._flush_end(attempt, final=False)

    @precondition(lambda self: self.turns)
    @rule(place=st.integers(0, 20), approved=st.booleans(), announced=st.booleans())
    def decide(self, place: int, approved: bool, announced: bool) -> None:
        parked = [t for t in self.turns.values() if t.parked]
        if parked:
            self.run(self._decide(parked[place % len(parked)], approved, announced=announced))

    async def _decide(self, turn: ModelTurn, approved: bool, *, announced: bool) -> None:
        call = f"call-{turn.parked - 1}"
        service = ApprovalService(self.servers.database, self.service, Metrics())
        deciding = service.decide(self.principal, turn.id, [Decision(call, approved)])
        if not announced:  # the API process dies behind the commit
            with patch.object(self.service, "announce_resumed"):
                outcome = (await asyncio.gather(deciding, return_exceptions=True))[0]
        else:
            outcome = (await asyncio.gather(deciding, return_exceptions=True))[0]
            await self.service.close()
        known = self.decided.get((turn.id, call))
        if turn.status is TurnStatus.AWAITING_APPROVAL:
            assert isinstance(outcome, Turn)
            self.decided[turn.id, call] = approved
            turn.status = TurnStatus.PENDING
        elif known is approved:
            assert isinstance(outcome, Turn), "the same again is no news"
        else:
            assert isinstance(outcome, ApprovalConflict), "decided otherwise, or over"

    @precondition(lambda self: self.turns)
    @rule(policy=st.sampled_from(["deny", "cancel"]), told=st.booleans())
    def expire_approvals(self, policy: Literal["deny", "cancel"], told: bool) -> None:
        self.run(self._expire_approvals(policy, told=told))

    async def _expire_approvals(self, policy: Literal["deny", "cancel"], *, told: bool) -> None:
        parked = [t for t in self.turns.values() if t.status is TurnStatus.AWAITING_APPROVAL]
        if not parked:
            return
        await self.servers.admin.execute(
            "update turns set expires_at = now() where status = 'awaiting_approval'"
        )
        if told:
            self.sweeper._approval_expiry = policy
            await self.sweeper._expire_approvals()
            await self.service.close()
        else:  # the worker dies behind the commit
            query = f"{policy}_expired_approvals"
            await self.servers.database.fetch_many(query, 100, "nobody decided")
        for turn in parked:
            if policy == "deny":
                self.decided[turn.id, f"call-{turn.parked - 1}"] = None
                turn.status = TurnStatus.PENDING
            else:
                turn.status, turn.attempt = TurnStatus.CANCELLED, turn.attempt + 1

    # -- leases

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        mine = [attempt for attempt in self.attempts if attempt.worker == worker]
        rows = self.run(
            self.servers.database.fetch_many(
                "renew_leases", worker, [a.turn.id for a in mine], [a.attempt for a in mine], 60.0
            )
        )
        kept = {(row["id"], row["attempt"]): row["cancel_requested"] for row in rows}
        assert kept == {(a.turn.id, a.attempt): a.turn.wants_cancel for a in mine if a.is_current}

    @rule(worker=st.sampled_from(WORKERS))
    def lose_worker(self, worker: str) -> None:
        self.run(self.reaper.reap([worker]))
        for turn in self.turns.values():
            if turn.status is TurnStatus.RUNNING and turn.worker == worker:
                self._lost(turn)

    @precondition(lambda self: any(t.status is TurnStatus.RUNNING for t in self.turns.values()))
    @rule(place=st.integers(0, 20))
    def lapse(self, place: int) -> None:
        running = [turn for turn in self.turns.values() if turn.status is TurnStatus.RUNNING]
        turn = running[place % len(running)]
        self.run(
            self.servers.admin.execute(
                "update turns set lease_until = now() - interval '1 s' where id = $1", turn.id
            )
        )
        self.reaper._lapsed_due_at = 0.0
        assert self.run(self.reaper.reap([])) == 1
        self._lost(turn)

    def _lost(self, turn: ModelTurn) -> None:
        turn.crashes += 1
        turn.worker = None
        if turn.wants_cancel:
            turn.status, turn.attempt = TurnStatus.CANCELLED, turn.attempt + 1
        elif turn.crashes >= BUDGET:
            turn.status, turn.attempt = TurnStatus.FAILED, turn.attempt + 1
        else:
            turn.status = TurnStatus.PENDING

    @rule(worker=st.sampled_from(WORKERS))
    def hand_back(self, worker: str) -> None:
        mine = [attempt for attempt in self.attempts if attempt.worker == worker]
        rows = self.run(
            self.servers.database.fetch_many(
                "hand_back_turns", worker, [a.turn.id for a in mine], [a.attempt for a in mine]
            )
        )
        assert {row["id"] for row in rows} == {a.turn.id for a in mine if a.is_current}
        for attempt in mine:
            if attempt.is_current:
                attempt.turn.status, attempt.turn.worker = TurnStatus.PENDING, None
        # Redis is not told: the sweeper must find out.

    # -- cancel

    @precondition(lambda self: self.turns)
    @rule(place=st.integers(0, 20))
    def cancel(self, place: int) -> None:
        turn = list(self.turns.values())[place % len(self.turns)]
        result = self.run(self.cancels.cancel(self.principal, turn.id))
        if turn.status in TERMINAL:
            assert (result.status, result.attempt) == (turn.status, turn.attempt)
            return
        assert result.status is TurnStatus.CANCELLED
        turn.status, turn.attempt, turn.worker = TurnStatus.CANCELLED, turn.attempt + 1, None

    @precondition(lambda self: any(t.status is TurnStatus.RUNNING for t in self.turns.values()))
    @rule(place=st.integers(0, 20))
    def wish_to_cancel(self, place: int) -> None:
        """The API process dies between the request and the force."""
        running = [turn for turn in self.turns.values() if turn.status is TurnStatus.RUNNING]
        turn = running[place % len(running)]
        who = self.principal
        self.run(
            self.servers.database.for_tenant(who).fetch_one(
                "request_cancel", turn.id, who.tenant_id, who.user_id
            )
        )
        turn.wants_cancel = True

    # -- Redis forgets

    @rule()
    def flush(self) -> None:
        self.run(self._flush())

    async def _flush(self) -> None:
        found = await scan(self.servers.redis, f"{self.keys.prefix}:*")
        if found:
            await self.servers.redis.call("DEL", *found)

    @rule()
    def save(self) -> None:
        self.saved = self.run(self._save())

    async def _save(self) -> dict[bytes, bytes]:
        redis = self.servers.redis
        found = await scan(redis, f"{self.keys.prefix}:*")
        return {key: await redis.call("DUMP", key) for key in found}

    @precondition(lambda self: self.saved is not None)
    @rule()
    def roll_back(self) -> None:
        self.run(self._roll_back())

    async def _roll_back(self) -> None:
        await self._flush()
        assert self.saved is not None
        for key, value in self.saved.items():
            await self.servers.redis.call("RESTORE", key, 300_000, value)
        # What the guard does on the first connection to the restarted server.
        await self.servers.redis.call("DEL", self.keys.generation)

    @rule()
    def sweep(self) -> None:
        self.run(self.sweeper.sweep())

    # -- what must always hold

    async def _read_log(self, turn_id: UUID) -> list[tuple[tuple[int, int], bytes]]:
        return [
            ((batch.attempt, batch.first_seq + index), payload)
            async for batch in self.log.read_all(turn_id, START)
            for index, payload in enumerate(batch.payloads)
        ]

    @invariant()
    def rows_are_as_they_must_be(self) -> None:
        if getattr(self, "turns", None):
            self.run(self._check_rows())

    async def _check_rows(self) -> None:
        rows = await self.servers.admin.fetch(
            "select * from turns where tenant_id = $1 order by accept_seq", self.principal.tenant_id
        )
        assert [row["id"] for row in rows] == list(self.turns), "I8: one row per accepted key"
        running = dict.fromkeys(LIMITS, 0)
        for row in rows:
            model = self.turns[row["id"]]
            assert (row["status"], row["attempt"], row["crash_count"], row["worker_id"]) == (
                model.status, model.attempt, model.crashes, model.worker,
            )  # fmt: skip
            assert row["parked_count"] == model.parked
            assert (row["slot"] is not None) == model.holds_slot
            running[model.key] += model.holds_slot
        for key, limit in LIMITS.items():
            assert running[key] <= limit, "I6"

    @invariant()
    def logs_are_as_they_must_be(self) -> None:
        if getattr(self, "turns", None):
            self.run(self._check_logs())

    async def _check_logs(self) -> None:
        for turn in self.turns.values():
            entries = await self._read_log(turn.id)
            previous = (0, 0)
            for (attempt, seq), payload in entries:
                expected = previous[1] + 1 if attempt == previous[0] else 1
                assert attempt >= previous[0], "I5"
                assert seq == expected, "I9"
                is_end = is_ended(payload)
                assert is_end or payload == said(attempt, seq), "I10"
                previous = (attempt, seq)
            ends = [is_ended(payload) for _, payload in entries]
            assert ends.count(True) <= 1, "I11"
            assert not any(ends[:-1]), "I11"
            if any(ends):
                assert turn.status in TERMINAL, "an end is published behind the commit only"
                assert previous[0] == turn.attempt

    def teardown(self) -> None:
        if not hasattr(self, "connection"):
            return
        try:
            self.run(self._come_to_an_end())
        finally:
            self.run(self._close())

    async def _come_to_an_end(self) -> None:
        """Whatever happened, two sweeps and willing workers bring every turn to its end."""
        for worker in WORKERS:
            await self.reaper.reap([worker])
            for turn in self.turns.values():
                if turn.status is TurnStatus.RUNNING and turn.worker == worker:
                    self._lost(turn)
        for _ in range(3 * len(self.turns) + 3):
            await self._expire_approvals("deny", told=False)
            await self.sweeper.sweep()
            await self._claim("w1", 10)
            for attempt in [a for a in self.attempts if a.is_current]:
                self.attempts.remove(attempt)
                await self._end(attempt, TurnStatus.COMPLETED, published=True)
            if all(turn.status in TERMINAL for turn in self.turns.values()):
                break
        left = {t.id: t.status for t in self.turns.values() if t.status not in TERMINAL}
        assert not left, f"I1: {left}"
        await self._check_rows()
        await self._check_logs()

    async def _close(self) -> None:
        await self._flush()
        # Reaper and sweeper look at all tenants: a failed example must not speak in the next one.
        await self.servers.admin.execute("truncate tenants cascade")
        await self.connection.close()


@pytest.fixture
def servers(
    postgres_server: str,
    postgres_template: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Servers]:
    monkeypatch.setattr(sweeper_module, "STALLED_AFTER_S", -1.0)
    name = f"tk_{secrets.token_hex(6)}"

    async def open_all(runner: asyncio.Runner) -> Servers:
        server = await asyncpg.connect(postgres_server)
        await server.execute(f"create database {name} template {postgres_template}")
        await server.close()
        dsn = with_database(postgres_server, name)
        return Servers(
            runner,
            await asyncpg.connect(dsn),
            Database(dsn, size=4),
            RedisConnection(redis_url),
            redis_url,
        )

    async def close_all(opened: Servers) -> None:
        await opened.database.close()
        await opened.redis.close()
        await opened.admin.close()
        server = await asyncpg.connect(postgres_server)
        await server.execute(f"drop database {name} with (force)")
        await server.close()

    with asyncio.Runner() as runner:
        opened = runner.run(open_all(runner))
        yield opened
        runner.run(close_all(opened))


def live(servers: Servers, *, examples: int, steps: int) -> None:
    machine = type("TheseLives", (Lives,), {"servers": servers})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=examples, stateful_step_count=steps, deadline=None
        ),
    )


@pytest.mark.timeout(120)
def test_random_lives(servers: Servers) -> None:
    live(servers, examples=50, steps=30)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_long_random_lives(servers: Servers) -> None:
    live(servers, examples=500, steps=60)
