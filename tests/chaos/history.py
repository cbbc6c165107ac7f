"""What happened in a chaos run: one small record per event, kept as JSON lines.

Times are CLOCK_MONOTONIC in nanoseconds, which all processes of a host share (`now`). An operation
has `began` and `at`, its answer; an observation has `at` alone. `outcome` is as in Jepsen: `ok`
happened, `fail` did not, `unknown` may have (no answer, or a 5xx).

A line is `{"kind": …, field: value, …}`. Fields at their default are written too: histories are
read with other tools as well.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import orjson

Outcome = Literal["ok", "fail", "unknown"]
Cause = Literal["ended", "lost", "left"]

_BUFFER_BYTES: Final = 65_536
_BUFFER_S: Final = 1.0
now = time.monotonic_ns


class HistoryError(Exception):
    """A history that cannot be read: an unknown kind, or fields that are not the kind's."""


# -- what clients did


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """A submit. `ok` is a 2xx that named `turn`; `fail` is a 4xx; all else is `unknown`.

    An unknown one is resolved by another Accept under the same `key`.
    """

    began: int
    at: int
    outcome: Outcome
    tenant: str
    turn: str = ""
    user: str = ""
    credential: str = ""
    key: str = ""
    """Idempotency key; "" when the client sent none."""
    fingerprint: str = ""
    """Digest of what was asked for."""
    concurrency_key: str = ""
    http: int = 0
    status: str = ""
    replayed: bool = False
    retry_after_s: float | None = None
    webhook: bool = False
    """A webhook is owed for its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A cancel of one turn. `ok` is a 2xx; `status` is what it answered, "" when it told none."""

    began: int
    at: int
    outcome: Outcome
    tenant: str
    turn: str
    credential: str = ""
    http: int = 0
    status: str = ""
    sent_text: bool = False
    """The client sent a partial text of its own, which replaces the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Decisions on the tool calls of a parked turn. `ok` is a 2xx: they are written down."""

    began: int
    at: int
    outcome: Outcome
    tenant: str
    turn: str
    decisions: str
    """`call=yes` or `call=no` for each, with spaces between them."""
    http: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """A read of one turn by its own user, or by one of another tenant; `ok` is below 500."""

    began: int
    at: int
    outcome: Outcome
    tenant: str
    turn: str
    credential: str = ""
    http: int = 0
    status: str = ""
    attempt: int = 0
    digest: str = ""
    """Of status, headers that do not vary by request, and body."""
    owner: str = ""
    """The tenant whose canary the bytes carried; "" when none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A request for a stream; `ok` when it was answered 200. A reader that comes again has the
    same `chain` and another `connection`; both are unique in a history.
    """

    began: int
    at: int
    outcome: Outcome
    tenant: str
    chain: str
    connection: str
    turn: str
    credential: str = ""
    after: str = "0-0"
    """The cursor it asked from."""
    http: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of a stream of the native protocol. A comment has the type `comment`.

    `attempt` and `seq` are the frame's id, 0 and 0 when it has none.
    """

    at: int
    connection: str
    type: str
    attempt: int = 0
    seq: int = 0
    digest: str = ""
    """Of the data."""
    text: str = ""
    """Of `message.delta` and `turn.snapshot`."""
    status: str = ""
    """Of `turn.ended`."""
    owner: str = ""
    """The tenant whose canary the bytes carried; "" when none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The end of a stream's response: `ended` by the server in good order, `lost`, or `left`."""

    at: int
    connection: str
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A 4xx or 503 to any request but a submit (that is an Accept)."""

    began: int
    at: int
    operation: str
    http: int
    tenant: str = ""
    credential: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """A credential was revoked; names what the operations call `credential`."""

    began: int
    at: int
    outcome: Outcome
    credential: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply that names what was asked: `told` must be `asked`. `link` says where."""

    at: int
    link: str
    asked: str
    told: str


# -- what the nemesis did


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultBegun:
    """A fault that was seen to have happened. `layer`: api, worker, redis, postgres, network, …"""

    at: int
    fault: str
    """Unique in a history."""
    name: str
    layer: str
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultHealed:
    at: int
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A signal to a process of the product, by its name (`SIGTERM`)."""

    at: int
    pid: int
    signal: str


# -- what workers did


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """`count` events written to a turn's log from `first_seq` on, in the order Redis ran them."""

    at: int
    outcome: Outcome
    turn: str
    attempt: int
    first_seq: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A worker's attempt to end a turn, as the worker saw it; only some kits can see that."""

    began: int
    at: int
    outcome: Outcome
    turn: str
    attempt: int
    status: str
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A committed change of a turn's status or attempt, from the trigger: accepts, claims,
    releases and ends. `order` is a total order in which all that was committed before a statement
    began comes before what the statement did; `at` is Postgres' clock put on ours.
    """

    at: int
    order: int
    turn: str
    tenant: str
    concurrency_key: str
    limit: int
    """How many turns of the key may run at once."""
    old: str
    """"" for an accept."""
    new: str
    old_attempt: int
    attempt: int
    old_worker: str = ""
    worker: str = ""
    slot: int = 0
    old_crash_count: int = 0
    crash_count: int = 0
    session: str = ""
    """The connection to Postgres that wrote it."""
    txid: int = 0


# -- what was found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """All rows of `turns` and `usage` were read at the end; there were so many turns."""

    at: int
    turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalState:
    """One row of `turns` at the end, with what hangs on it."""

    at: int
    turn: str
    tenant: str
    status: str
    user: str = ""
    key: str = ""
    concurrency_key: str = ""
    attempt: int = 0
    text: str = ""
    """What the thread keeps of the answer."""
    questions: int = 1
    """Rows of user messages."""
    answer_commits: int = 0
    """Transactions that wrote other messages of the turn."""
    crash_count: int = 0
    error_code: str = ""
    parked_count: int = 0
    decisions: str = ""
    """On its tool calls, as `Decide` tells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One row of `usage`."""

    at: int
    turn: str
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request to a webhook's sink; `http` is what the sink answered."""

    at: int
    turn: str
    event: str
    webhook_id: str
    http: int
    is_signed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A webhook that was given up, where its owner can see it."""

    at: int
    turn: str
    event: str
    webhook_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A turn that was still `running` this long after its lease had lapsed."""

    at: int
    turn: str
    lapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Residue:
    """What is left at the end, beside how much of it there may be."""

    at: int
    what: str
    found: float
    allowed: float = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One figure of one process or server, such as `rss_bytes` of `worker-1`."""

    at: int
    subject: str
    figure: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSample:
    """Postgres' clock read at `at`, right within `uncertainty_ns`."""

    at: int
    server_ns: int
    uncertainty_ns: int


Event = (
    Accept | Cancel | Decide | Get | Connect | Frame | Disconnect | Refusal | Revoke | Reply
    | FaultBegun | FaultHealed | Signalled | Append | Commit | Transition
    | FinalState | Scan | Usage | Delivery | DeadLetter | Overdue | Residue | Sample | ClockSample
)  # fmt: skip

_KINDS: Final[dict[str, type[Event]]] = {
    "accept": Accept,
    "cancel": Cancel,
    "decide": Decide,
    "get": Get,
    "connect": Connect,
    "frame": Frame,
    "disconnect": Disconnect,
    "refusal": Refusal,
    "revoke": Revoke,
    "reply": Reply,
    "fault-begun": FaultBegun,
    "fault-healed": FaultHealed,
    "signalled": Signalled,
    "append": Append,
    "commit": Commit,
    "transition": Transition,
    "scan": Scan,
    "final-state": FinalState,
    "usage": Usage,
    "delivery": Delivery,
    "dead-letter": DeadLetter,
    "overdue": Overdue,
    "residue": Residue,
    "sample": Sample,
    "clock-sample": ClockSample,
}
_HEADS: Final = {cls: b'{"kind":"%b",' % kind.encode() for kind, cls in _KINDS.items()}


def encode(event: Event) -> bytes:
    """One line, with its newline."""
    return _HEADS[type(event)] + orjson.dumps(event)[1:] + b"\n"


def decode(line: bytes) -> Event:
    """Inverse of `encode`.

    Raises:
        orjson.JSONDecodeError: not JSON.
        HistoryError: JSON, but not an event.
    """
    fields: dict[str, Any] = orjson.loads(line)
    try:
        return _KINDS[fields.pop("kind")](**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"not an event: {line[:200]!r} ({error})") from error


class History:
    """Appends events to a file. One process, one file: `read` takes any number of files.

    At most 64 KB wait in memory, and none for longer than a second once another event comes. Leave
    it as `with` or call `flush`. A file that a killed writer left torn is mended: what follows
    begins on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._buffer: list[bytes] = []
        self._size_bytes = 0
        self._oldest = now()
        if not _ends_with_newline(path):
            self._file.write(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, event: Event) -> None:
        """Adds one event; order within a file is kept."""
        line = encode(event)
        moment = now()
        if not self._buffer:
            self._oldest = moment
        self._buffer.append(line)
        self._size_bytes += len(line)
        if self._size_bytes >= _BUFFER_BYTES or moment - self._oldest >= _BUFFER_S * 1e9:
            self.flush()

    def extend(self, events: Iterable[Event]) -> None:
        """Adds many."""
        for event in events:
            self.append(event)

    def flush(self) -> None:
        """Hands everything to the operating system: it outlives this process."""
        data = memoryview(b"".join(self._buffer))
        self._buffer.clear()
        self._size_bytes = 0
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Flushes and closes; closing again does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was read: the events of each file in their order, and how many lines were torn."""

    events: list[Event]
    torn: int = 0

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


def read(*paths: Path) -> Recorded:
    """The events of all files. A line that is not whole, as a killed writer leaves it, is counted.

    Raises:
        HistoryError: a whole line that is no event.
    """
    events: list[Event] = []
    torn = 0
    # Millions of objects that all stay: looking for garbage among them is a fifth of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for path in paths:
            with path.open("rb") as file:
                for line in file:
                    if line == b"\n":
                        continue
                    try:
                        events.append(decode(line))
                    except orjson.JSONDecodeError:
                        torn += 1
    finally:
        if was_enabled:
            gc.enable()
    return Recorded(events, torn)
