"""Values that cross module borders: what is asked for, what is stored, what a worker is handed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple
from uuid import UUID

from shared.turn.approval import OpenApproval
from shared.turn.events import Usage
from shared.turn.state import TERMINAL, TurnStatus


class ConflictPolicy(StrEnum):
    """What to do when the concurrency key already has an active turn."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"
    SKIP = "skip"
    COALESCE = "coalesce"
    STEER = "steer"


SUPPORTED_CONFLICT_POLICIES = (ConflictPolicy.ENQUEUE, ConflictPolicy.REJECT)


class CredentialKind(StrEnum):
    """What a credential is. Each surface takes some kinds; to it the others are unknown."""

    API_KEY = "api_key"
    PAT = "pat"
    SESSION = "session"
    PROVIDER = "provider"
    """A token of the tenant's identity provider; it has no row here."""
    MECHAMENTAL = "mechamental"
    KODEY_SECRET = "kodey_secret"  # noqa: S105 - a kind, not one of them
    KODEY_PUBLISHABLE = "kodey_publishable"
    ZYLON = "zylon"


CHAT_KINDS = frozenset(
    {
        CredentialKind.API_KEY,
        CredentialKind.PAT,
        CredentialKind.SESSION,
        CredentialKind.PROVIDER,
    }
)
"""What the primary surface takes."""


class Permission(StrEnum):
    """What a restricted credential may do."""

    READ_MESSAGES = "messages:read"
    WRITE_MESSAGES = "messages:write"
    READ_THREADS = "threads:read"
    WRITE_THREADS = "threads:write"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a credential reaches; None of each: everywhere."""

    workspaces: frozenset[str] | None = None
    namespaces: frozenset[str] | None = None
    permissions: frozenset[str] | None = None
    """Values of `Permission`."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: one user of one tenant, known by one credential.

    `key_id` is the credential's id; of a provider's token, which has none here, one that user and
    subject make together.
    """

    tenant_id: UUID
    user_id: UUID
    key_id: UUID
    expires_at: float | None = field(default=None, compare=False)
    """Unix time at which a provider's token ends; credentials of ours are asked for instead."""
    is_self_made: bool = field(default=False, compare=False)
    """A token, a session, or a provider's token: the user may get more of them."""
    kind: CredentialKind = field(default=CredentialKind.API_KEY, compare=False)
    reach: Reach = field(default=Reach(), compare=False)
    acts_for: UUID | None = field(default=None, compare=False)
    """Who asks, where `user_id` is the owner of a shared thread they may use."""

    @property
    def counted_as(self) -> UUID:
        """Under which id rates and seats are counted, so that nobody multiplies their share.

        An API key, which operators make, counts alone; all that a user makes or brings as the user.
        """
        return (self.acts_for or self.user_id) if self.is_self_made else self.key_id

    def acting_as(self, owner_id: UUID) -> Principal:
        """Who asks, with the rights of the owner of a thread that is shared with them."""
        if owner_id == self.user_id:
            return self
        return replace(self, user_id=owner_id, acts_for=self.acts_for or self.user_id)


@dataclass(frozen=True, slots=True)
class Redo:
    """Which exchange a new turn answers anew: the one `message_id` is part of, None: the newest."""

    message_id: str | None
    """As the client has it: perhaps an id that no message has."""


class Given(NamedTuple):
    """A message that no turn has made."""

    role: Literal["user", "assistant", "system"]
    content: str


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A validated request for a turn. `fingerprint` is SHA-256 of the canonical request."""

    id: UUID
    principal: Principal
    thread_id: UUID
    input_message_id: UUID
    planned_output_message_id: UUID
    text: str
    raw_message: dict[str, Any]
    """The user's message as a pydantic-ai ModelRequest (JSON object), kept as `rawData`."""
    model_id: str
    settings: dict[str, Any]
    system_prompt: str | None
    concurrency_key: str
    conflict_policy: ConflictPolicy
    idempotency_scope: str
    idempotency_key: str
    client_chose_key: bool
    """False when the server made the idempotency key; such a key is not shown to anyone."""
    fingerprint: bytes
    files: tuple[NewFile, ...] = ()
    """What the message brings along."""
    names_model: bool = True
    """False when `model_id` is only the deployment's default: an agent spec's goes before it."""
    redo: Redo | None = None
    """Set: the message is one that the thread has already; its id and text are found at accept."""
    follows: UUID | None = None
    """Set: the turn is accepted only while this one is the newest of its thread."""
    given: tuple[Given, ...] = ()
    """Messages before its own, in a thread that has no turn yet; of the same commit."""
    artifact_ids: tuple[UUID, ...] = ()
    """What is attached to the message in the commit that accepts it."""
    agent_spec_id: UUID | None = None
    """Set: this agent spec serves the turn, whatever its thread has."""
    makes_thread: bool = False
    """True: its thread, where there is none yet, is made in the commit that accepts it."""

    @property
    def brings_more(self) -> bool:
        """Whether more than its own rows is written in the commit that accepts it."""
        more = self.files or self.artifact_ids or self.given or self.makes_thread
        return bool(more or self.agent_spec_id or self.principal.acts_for)

    def as_said(self) -> NewTurn:
        """The same; where another asks than the thread's user, no model is told who that one is."""
        if self.principal.acts_for is None:
            return self
        return replace(self, settings={**self.settings, "isAnonymous": True})


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file of a message. `reader` as in `shared.files.kinds`."""

    data: bytes = field(repr=False)
    sha256: bytes
    name: str
    mime_type: str
    reader: str | None
    object_key: str | None = None
    """Where it was stored; None before, and where there is no room for it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Outcome of an accept: the turn, and whether this call or an earlier one made it."""

    turn: Turn
    replayed: bool
    position: int
    """Turns of the same key that go first; 100 means 100 or more. 0 when replayed."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as stored. `error` is `{"code", "message"}`; `usage` is set once known."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    thread_id: UUID
    status: TurnStatus
    attempt: int
    accept_seq: int
    """Accept order; unique and rising per concurrency key."""
    input_message_id: UUID | None
    planned_output_message_id: UUID
    """Id the assistant's message will get; fixed at accept, so a stream can name it at once."""
    output_message_id: UUID | None
    model_id: str
    settings: dict[str, Any]
    concurrency_key: str
    max_running: int
    idempotency_key: str | None
    usage: Usage | None
    error: dict[str, str] | None
    worker_id: str | None
    last_seq: int
    """Seq of `turn.ended` or `turn.awaiting_approval` under `attempt`; 0 while it goes on."""
    cancel_requested_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
    updated_at: datetime
    agent_spec_id: UUID | None = None
    agent_spec_version: int | None = None
    """As they were at accept. None: the tenant had no agent spec yet."""
    parked_count: int = 0
    """How often tool calls of it had to be approved."""
    approvals: tuple[OpenApproval, ...] = ()
    """What a parked turn waits for; only known where one turn, or a list, was read."""

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def duration_s(self) -> float | None:
        """From the first claim to the end, to the millisecond; None before the end."""
        return duration_s(self.started_at, self.ended_at)


def duration_s(started_at: datetime | None, ended_at: datetime | None) -> float | None:
    """Seconds between the two, to the millisecond; None unless both are known."""
    if started_at is None or ended_at is None:
        return None
    return round((ended_at - started_at).total_seconds(), 3)


@dataclass(frozen=True, slots=True)
class ClaimedTurn:
    """What a worker needs to run a turn it has claimed under `attempt`."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    thread_id: UUID
    attempt: int
    accept_seq: int
    crash_count: int
    concurrency_key: str
    max_running: int
    model_id: str
    settings: dict[str, Any]
    instructions: str | None
    """The thread's system prompt, then the turn's own."""
    prompt: str
    input_message_id: UUID
    has_attachments: bool
    """Whether anything is attached to its thread or to one of its messages."""
    has_history: bool
    """Whether its thread had messages before it."""
    output_message_id: UUID
    agent_spec_id: UUID | None = None
    agent_spec_version: int | None = None
    parked_count: int = 0
    """How often it was parked for approvals; its attempts before that are part of it."""
    earlier_usage: Usage | None = None
    """What it had used when it was parked last."""
