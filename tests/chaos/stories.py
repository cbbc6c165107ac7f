"""Made-up good histories, by seed: a small product that keeps every promise, under faults.

The checker must find nothing in them, and every planted violation (`mutants`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from tests.chaos import history as h

MS: Final = 1_000_000
TENANTS: Final = ("tenant-a", "tenant-b")
_LINES: Final = {("tenant-a", "line"): 1, ("tenant-a", "wide"): 2, ("tenant-b", "line"): 1}
_ENDS: Final = ("completed", "completed", "completed", "failed")


@dataclass
class _Turn:
    id: str
    tenant: str
    line: str
    key: str
    accepted_at: int
    status: str = ""
    attempt: int = 0
    worker: str = ""
    slot: int = 0
    crashes: int = 0
    parks: int = 0
    decisions: str = ""
    kept: str = ""
    """What it had said when it was parked."""
    has_started: bool = False
    log: list[h.Frame] = field(default_factory=list)
    """Everything that was ever appended; `connection` is empty."""
    is_log_lost: bool = False
    text: str = ""
    last_seq: int = 0

    @property
    def is_over(self) -> bool:
        return self.status in {"completed", "failed", "cancelled", "expired"}

    @property
    def end(self) -> h.Frame:
        return h.Frame(
            at=0, connection="", type="turn.ended", attempt=max(self.attempt, 1),
            seq=max(self.last_seq, 1), digest=f"end-{self.id}-{self.status}", status=self.status,
        )  # fmt: skip


@dataclass
class _Reader:
    chain: str
    turn: _Turn
    cursor: tuple[int, int] = (0, 0)
    connection: str = ""
    comes: int = 0
    is_done: bool = False
    saw_running: bool = False


class Story:
    """One made-up run; `tell` returns its events."""

    def __init__(self, seed: int = 0, *, turns: int = 20, deltas: int = 6) -> None:
        self.lots = random.Random(seed)  # noqa: S311 - not a secret
        self.turn_count = turns
        self.deltas = deltas
        self.now = 1_000 * MS
        self.order = 0
        self.events: list[h.Event] = []
        self.turns: list[_Turn] = []
        self.lines: dict[tuple[str, str], list[_Turn]] = defaultdict(list)
        self.readers: list[_Reader] = []
        self.workers = [f"host-{100 + n}-aaaa" for n in range(3)]
        self.draining: set[str] = set()
        self.faults = 0
        self.names = 0

    def tell(self) -> list[h.Event]:
        acts = (
            (self._accept, 5), (self._claim, 8), (self._speak, 12), (self._end, 3),
            (self._lose_worker, 1), (self._hand_back, 1), (self._cancel, 1), (self._expire, 1),
            (self._park, 2), (self._decide, 3),
            (self._connect, 4), (self._read, 14), (self._leave, 3), (self._get, 4),
            (self._refuse, 1), (self._lose_redis, 1), (self._sigterm, 0.1),
        )  # fmt: skip
        deeds, weights = [act for act, _ in acts], [weight for _, weight in acts]
        while len(self.turns) < self.turn_count:
            self.lots.choices(deeds, weights)[0]()
        while any(not turn.is_over for turn in self.turns):
            self.lots.choice((self._claim, self._speak, self._end, self._read, self._decide))()
        for reader in self.readers:
            while not reader.is_done:
                self._connect_reader(reader)
                self._read_on(reader, 1_000)
        self._look()
        return self.events

    # -- time and bookkeeping

    def tick(self, ms: float = 3) -> int:
        self.now += 1 + int(self.lots.random() * ms * MS)
        return self.now

    def add(self, event: h.Event) -> None:
        self.events.append(event)

    def name(self, what: str) -> str:
        self.names += 1
        return f"{what}-{self.names}"

    def pick(self, *statuses: str) -> _Turn | None:
        found = [turn for turn in self.turns if turn.status in statuses]
        return self.lots.choice(found) if found else None

    def change(self, turn: _Turn, status: str, **fields: Any) -> None:
        old = turn.status
        worker = fields.get("worker", "")
        attempt = fields.get("attempt", turn.attempt)
        crashes = fields.get("crashes", turn.crashes)
        slot = fields.get("slot", 0)
        self.order += 1
        self.add(
            h.Transition(
                at=self.tick(), order=self.order, turn=turn.id, tenant=turn.tenant,
                concurrency_key=turn.line, limit=_LINES[turn.tenant, turn.line], old=old,
                new=status, old_attempt=turn.attempt, attempt=attempt, old_worker=turn.worker,
                worker=worker, slot=slot, old_crash_count=turn.crashes, crash_count=crashes,
                session=f"session-of-{worker or turn.worker}",
            )
        )  # fmt: skip
        turn.status, turn.worker, turn.attempt = status, worker, attempt
        turn.crashes, turn.slot = crashes, slot

    def log(self, turn: _Turn, kind: str, attempt: int, seq: int, **fields: str) -> None:
        place = f"{turn.id}-{attempt}-{seq}"
        frame = h.Frame(
            at=0, connection="", type=kind, attempt=attempt, seq=seq,
            digest=fields.pop("digest", place), **fields,
        )  # fmt: skip
        turn.log.append(frame)
        turn.last_seq = seq
        self.add(
            h.Append(
                at=self.tick(), outcome="ok", turn=turn.id, attempt=attempt, first_seq=seq, count=1
            )
        )

    # -- what happens

    def _accept(self) -> None:
        tenant, line = self.lots.choice(list(_LINES))
        number = len(self.turns)
        turn = _Turn(f"turn-{number}", tenant, line, f"key-{number}", 0)
        common: dict[str, Any] = {
            "tenant": tenant, "user": f"user-{tenant}", "credential": f"credential-{tenant}",
            "key": turn.key, "fingerprint": f"asked-{number}", "concurrency_key": line,
        }  # fmt: skip
        if self.lots.random() < 0.1:
            at = self.tick()
            self.add(
                h.Accept(
                    began=at, at=self.tick(), outcome="fail", http=429, retry_after_s=1, **common
                )
            )
        began = self.tick()
        self.turns.append(turn)
        self.lines[tenant, line].append(turn)
        self.change(turn, "pending")
        common |= {"turn": turn.id, "webhook": True}
        if self.lots.random() < 0.2:
            self.add(
                h.Accept(
                    **(common | {"turn": ""}), began=began, at=self.tick(), outcome="unknown",
                )
            )  # fmt: skip
            began = self.tick()
        self.add(
            h.Accept(
                began=began, at=self.tick(), outcome="ok", http=202, status="pending", **common
            )
        )
        turn.accepted_at = self.now

    def _claim(self) -> None:
        able = [worker for worker in self.workers if worker not in self.draining]
        for (tenant, line), turns in self.lines.items():
            busy = {turn.slot for turn in turns if turn.status in ("running", "awaiting_approval")}
            free = set(range(1, _LINES[tenant, line] + 1)) - busy
            head = next((turn for turn in turns if turn.status == "pending"), None)
            if not free or head is None or self.lots.random() < 0.3:
                continue
            self.change(
                head, "running", attempt=head.attempt + 1, worker=self.lots.choice(able),
                slot=min(free),
            )  # fmt: skip
            head.has_started, head.text = True, ""
            self.log(head, "turn.started", head.attempt, 1)
            if head.kept:
                head.text = head.kept
                self.log(head, "message.delta", head.attempt, 2, text=head.kept)

    def _speak(self) -> None:
        turn = self.pick("running")
        if turn is None:
            return
        for _ in range(self.lots.randint(1, self.deltas)):
            text = f"w{turn.last_seq} "
            turn.text += text
            self.log(turn, "message.delta", turn.attempt, turn.last_seq + 1, text=text)

    def _end(self) -> None:
        turn = self.pick("running")
        if turn is not None:
            self._finish(turn, self.lots.choice(_ENDS), turn.attempt)

    def _finish(self, turn: _Turn, status: str, attempt: int) -> None:
        seq = turn.last_seq + 1 if attempt == turn.attempt else 1
        self.change(turn, status, attempt=attempt)
        end = f"end-{turn.id}-{status}"
        self.log(turn, "turn.ended", attempt, seq, status=status, digest=end)

    def _park(self) -> None:
        turn = self.pick("running")
        if turn is None or turn.parks >= 2 or turn.worker in self.draining:
            return
        turn.parks, turn.kept = turn.parks + 1, turn.text
        self.change(turn, "awaiting_approval", slot=turn.slot)
        self.log(turn, "turn.awaiting_approval", turn.attempt, turn.last_seq + 1)

    def _decide(self) -> None:
        turn = self.pick("awaiting_approval")
        if turn is None:
            return
        said = f"call-{turn.parks}={self.lots.choice(('yes', 'no'))}"
        began = self.tick()
        turn.decisions = f"{turn.decisions} {said}".strip()
        self.change(turn, "pending")
        if self.lots.random() < 0.8:  # else the clock has decided
            self.add(
                h.Decide(
                    began=began, at=self.tick(), outcome="ok", tenant=turn.tenant, turn=turn.id,
                    decisions=said, http=200,
                )
            )  # fmt: skip

    def _lose_worker(self) -> None:
        turn = self.pick("running")
        if turn is None or turn.crashes >= 2:
            return
        if turn.worker in self.draining:
            return
        zombie = turn.attempt
        self.change(turn, "pending", crashes=turn.crashes + 1)
        self.add(
            h.Append(
                at=self.tick(), outcome="fail", turn=turn.id, attempt=zombie,
                first_seq=turn.last_seq + 1, count=1,
            )
        )  # fmt: skip

    def _hand_back(self) -> None:
        turn = self.pick("running")
        if turn is not None:
            self.change(turn, "pending")

    def _cancel(self) -> None:
        turn = self.pick("pending", "running", "awaiting_approval", "completed")
        if turn is None:
            return
        began = self.tick()
        if not turn.is_over:
            forced = turn.status != "running" or self.lots.random() < 0.5
            self._finish(turn, "cancelled", turn.attempt + forced)
            for reader in self.readers:
                if reader.turn is turn and reader.connection:
                    self._read_on(reader, 1_000)
        self.add(
            h.Cancel(
                began=began, at=self.tick(), outcome="ok", tenant=turn.tenant, turn=turn.id,
                credential=f"credential-{turn.tenant}", http=200, status=turn.status,
            )
        )  # fmt: skip

    def _expire(self) -> None:
        turn = self.pick("pending")
        if turn is not None and not turn.has_started:
            self._finish(turn, "expired", turn.attempt + 1)

    def _lose_redis(self) -> None:
        self.faults += 1
        fault = f"fault-{self.faults}"
        self.add(h.FaultBegun(at=self.tick(), fault=fault, name="F19", layer="redis"))
        for turn in self.turns:
            if turn.is_over:
                turn.is_log_lost = True
        self.add(h.FaultHealed(at=self.tick(), fault=fault))

    def _sigterm(self) -> None:
        able = [worker for worker in self.workers if worker not in self.draining]
        if len(able) < 2:
            return
        worker = self.lots.choice(able)
        self.draining.add(worker)
        pid = int(worker.split("-")[1])
        self.add(h.Signalled(at=self.tick(), pid=pid, signal="SIGTERM"))
        for turn in self.turns:
            if turn.worker == worker:
                self.change(turn, "pending")

    # -- clients

    def _connect(self) -> None:
        turn = self.lots.choice(self.turns) if self.turns else None
        if turn is not None and turn.accepted_at:
            reader = _Reader(self.name("chain"), turn)
            self.readers.append(reader)
            self._connect_reader(reader)

    def _connect_reader(self, reader: _Reader) -> None:
        if reader.connection or reader.is_done:
            return
        turn = reader.turn
        reader.comes += 1
        began = self.tick()
        attempt, seq = reader.cursor
        # A cursor into a log that is gone gets 410: this reader then reads the turn instead.
        is_gone = turn.is_log_lost and seq > 0 and attempt == turn.attempt
        common: dict[str, Any] = {
            "began": began, "at": self.tick(), "tenant": turn.tenant, "chain": reader.chain,
            "connection": f"{reader.chain}.{reader.comes}", "turn": turn.id,
            "credential": f"credential-{turn.tenant}", "after": f"{attempt}-{seq}",
        }  # fmt: skip
        if is_gone:
            self.add(h.Connect(outcome="fail", http=410, **common))
            reader.is_done = True
            return
        self.add(h.Connect(outcome="ok", http=200, **common))
        reader.connection = common["connection"]
        if reader.cursor == (0, 0) and turn.status == "pending":
            self._pass(reader, h.Frame(at=0, connection="", type="turn.queued"))

    def _read(self) -> None:
        open_ones = [reader for reader in self.readers if reader.connection]
        if open_ones:
            self._read_on(self.lots.choice(open_ones), self.lots.randint(1, 8))

    def _read_on(self, reader: _Reader, most: int) -> None:
        if reader.is_done:
            return
        for frame in self._next_frames(reader)[:most]:
            self._pass(reader, frame)
            reader.cursor = (frame.attempt, frame.seq)
            if frame.type == "turn.ended":
                reader.is_done = True
                self._drop(reader, "ended")
                return

    def _next_frames(self, reader: _Reader) -> list[h.Frame]:
        turn, (attempt, seq) = reader.turn, reader.cursor
        if not (turn.is_over and turn.is_log_lost):
            return [f for f in turn.log if (f.attempt, f.seq) > reader.cursor]
        own: dict[str, Any] = {"at": 0, "connection": "", "attempt": max(turn.attempt, 1)}
        frames: list[h.Frame] = []
        if turn.has_started and (attempt < own["attempt"] or seq == 0):
            frames = [h.Frame(type="turn.started", **own)]
            if turn.text:
                frames.append(h.Frame(type="message.delta", text=turn.text, **own))
        elif turn.has_started and seq < turn.last_seq:
            frames = [h.Frame(type="turn.snapshot", text=turn.text, **own)]
        return [*frames, turn.end]

    def _pass(self, reader: _Reader, frame: h.Frame) -> None:
        self.add(
            h.Frame(
                at=self.tick(1), connection=reader.connection, type=frame.type,
                attempt=frame.attempt, seq=frame.seq, digest=frame.digest, text=frame.text,
                status=frame.status, owner=reader.turn.tenant if frame.text else "",
            )
        )  # fmt: skip

    def _leave(self) -> None:
        open_ones = [reader for reader in self.readers if reader.connection]
        if not open_ones:
            return
        reader = self.lots.choice(open_ones)
        if self.lots.random() < 0.3:
            self._pass(reader, h.Frame(at=0, connection="", type="stream.reconnect"))
            self._drop(reader, "ended")
        else:
            self._drop(reader, self.lots.choice(("lost", "left")))
        if self.lots.random() < 0.8:
            self._connect_reader(reader)

    def _drop(self, reader: _Reader, cause: h.Cause) -> None:
        self.add(h.Disconnect(at=self.tick(), connection=reader.connection, cause=cause))
        reader.connection = ""

    def _get(self) -> None:
        turns = [turn for turn in self.turns if turn.accepted_at]
        if not turns:
            return
        turn = self.lots.choice(turns)
        began = self.tick()
        self.add(
            h.Get(
                began=began, at=self.tick(), outcome="ok", tenant=turn.tenant, turn=turn.id,
                credential=f"credential-{turn.tenant}", http=200, status=turn.status,
                attempt=turn.attempt, digest=self.name("body"), owner=turn.tenant,
            )
        )  # fmt: skip
        stranger = next(tenant for tenant in TENANTS if tenant != turn.tenant)
        for asked in (turn.id, "turn-of-nobody"):
            began = self.tick()
            self.add(
                h.Get(
                    began=began, at=self.tick(), outcome="ok", tenant=stranger, turn=asked,
                    credential=f"credential-{stranger}", http=404, digest="not found",
                )
            )  # fmt: skip

    def _refuse(self) -> None:
        began = self.tick()
        self.add(
            h.Refusal(began=began, at=self.tick(), operation="get", http=503, retry_after_s=2.0)
        )
        self.add(h.Reply(at=self.tick(), link="redis", asked="nonce", told="nonce"))
        began = self.tick()
        credential = self.name("revoked")
        self.add(h.Revoke(began=began, at=self.tick(), outcome="ok", credential=credential))
        self.add(
            h.Get(
                began=self.now + 6_000 * MS, at=self.now + 6_001 * MS, outcome="ok",
                tenant="tenant-a", turn="turn-of-nobody", credential=credential, http=401,
            )
        )  # fmt: skip

    # -- the end

    def _look(self) -> None:
        at = self.tick()
        self.add(h.Scan(at=at, turns=len(self.turns)))
        for turn in self.turns:
            answered = turn.status in {"completed", "failed"} or bool(turn.text)
            self.add(
                h.FinalState(
                    at=at, turn=turn.id, tenant=turn.tenant, status=turn.status,
                    user=f"user-{turn.tenant}", key=turn.key, concurrency_key=turn.line,
                    attempt=turn.attempt, text=turn.text,
                    answer_commits=int(answered) + turn.parks, crash_count=turn.crashes,
                    parked_count=turn.parks, decisions=turn.decisions,
                )
            )  # fmt: skip
            if turn.status == "completed":
                self.add(h.Usage(at=at, turn=turn.id))
            for http in (500, 200):
                self.add(
                    h.Delivery(
                        at=self.tick(), turn=turn.id, event="turn.ended",
                        webhook_id=f"webhook-{turn.id}", http=http,
                    )
                )  # fmt: skip
        self.add(h.Residue(at=at, what="open streams", found=0))
        self.add(h.Residue(at=at, what="open files of api-0", found=12, allowed=14))


_NAMES: Final = ("turn", "chain", "connection", "key", "fault", "webhook_id")
_TIMES: Final = ("at", "began")


def repeat(events: list[h.Event], times: int) -> Iterator[h.Event]:
    """The same story again and again, each time later and with other turns on the same lines."""
    span = max(event.at for event in events)
    orders = max((event.order for event in events if isinstance(event, h.Transition)), default=0)
    named = [(event, {f.name for f in fields(event)}) for event in events]
    for number in range(times):
        for event, has in named:
            changed: dict[str, Any] = {
                name: getattr(event, name) + number * span for name in _TIMES if name in has
            }
            for name in _NAMES:
                if name in has and getattr(event, name):
                    changed[name] = f"{getattr(event, name)}~{number}"
            if isinstance(event, h.Transition):
                changed["order"] = event.order + number * orders
            yield replace(event, **changed)
