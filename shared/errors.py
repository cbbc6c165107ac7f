"""Every error Turnkeep raises on purpose. No HTTP here: each surface owns a table class → status.

TurnkeepError
├── RequestRejected          the caller's fault; nothing was written
│   ├── InvalidRequest
│   │   ├── InvalidCursor
│   │   ├── UnknownModel
│   │   ├── UnsupportedConflictPolicy
│   │   └── IdempotencyKeyReused
│   ├── NotAuthenticated
│   ├── TooManyFailures
│   ├── Forbidden
│   │   └── OutOfReach
│   ├── NotFound
│   │   ├── ThreadNotFound
│   │   ├── TurnNotFound
│   │   ├── MessageNotFound
│   │   ├── ArtifactNotFound
│   │   ├── AttachmentNotFound
│   │   ├── AgentSpecNotFound
│   │   ├── AutomationNotFound
│   │   ├── AutomationRunNotFound
│   │   └── ProjectNotFound
│   ├── FileTooLarge
│   ├── ThreadMovedOn
│   ├── ConcurrencyConflict
│   ├── TooManyTokens
│   ├── StorageFull
│   ├── TooManyAttachments
│   ├── SlugTaken
│   ├── NameTaken
│   ├── AgentSpecInUse
│   ├── TooManyVersions
│   ├── ApprovalConflict
│   ├── NotCrystallizable
│   ├── AutomationConflict
│   └── CursorExpired
├── Overloaded               too much at once; nothing was written, a later try may be served
│   ├── QueueFull
│   ├── RateLimitExceeded
│   ├── TooManyStreams
│   └── Saturated
├── TurnFailed               stored on the turn; reaches clients as an event
└── DependencyUnavailable    ours; the caller may retry
    ├── PostgresUnavailable
    │   └── PostgresBusy
    ├── RedisUnavailable
    ├── IdentityProviderUnavailable
    └── ObjectStoreUnavailable

Requests to addresses that tenants choose have their own: `shared/outbound/errors.py`.
"""

from __future__ import annotations

from typing import ClassVar


class TurnkeepError(Exception):
    """Root of the tree. `code` is stable and machine readable; the message is for people."""

    code: ClassVar[str] = "internal"


class RequestRejected(TurnkeepError):
    """The request cannot be honoured as sent. Raised before any effect."""

    code = "rejected"


class InvalidRequest(RequestRejected):
    """A value is wrong. `loc`, `msg` and `type` follow pydantic's error dictionaries."""

    code = "invalid_request"

    def __init__(self, loc: tuple[str | int, ...], msg: str, type_: str = "value_error") -> None:
        super().__init__(msg)
        self.loc = loc
        self.msg = msg
        self.type = type_


class InvalidCursor(InvalidRequest):
    """The pagination cursor was not issued by this operation."""

    code = "invalid_cursor"

    def __init__(self, loc: tuple[str | int, ...] = ("query", "cursor")) -> None:
        super().__init__(loc, "Invalid cursor", "value_error")


class UnknownModel(InvalidRequest):
    """The `modelId` names no model this deployment can run."""

    code = "unknown_model"

    def __init__(self, model_id: str, prefixes: tuple[str, ...]) -> None:
        shown = model_id if len(model_id) <= 80 else model_id[:80] + "…"
        msg = f"Unknown model {shown!r}. Models that work here start with: {', '.join(prefixes)}"
        super().__init__(("body", "modelId"), msg, "value_error")


class UnsupportedConflictPolicy(InvalidRequest):
    """A documented `onConflict` value that this version does not carry out."""

    code = "unsupported_conflict_policy"

    def __init__(self, value: str, supported: tuple[str, ...]) -> None:
        msg = f"onConflict {value!r} is not supported yet. Supported: {', '.join(supported)}"
        super().__init__(("body", "onConflict"), msg, "value_error")


class IdempotencyKeyReused(InvalidRequest):
    """The idempotency key was used before with another request body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        msg = "This idempotency key was used with a different request"
        super().__init__(("header", "Idempotency-Key"), msg, "idempotency_key_reused")


class NotAuthenticated(RequestRejected):
    """No credential, or one that is unknown, expired or revoked."""

    code = "not_authenticated"


class TooManyFailures(RequestRejected):
    """Wrong credentials, and too many of them lately from the same place."""

    code = "too_many_failures"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Rate limit exceeded")
        self.retry_after_s = retry_after_s


class Forbidden(RequestRejected):
    """Known, but not allowed: not this user, not by this credential, or not from another site."""

    code = "forbidden"


class OutOfReach(Forbidden):
    """The credential is restricted, and may not do this. `permission` names what it lacks."""

    code = "out_of_reach"

    def __init__(self, permission: str) -> None:
        super().__init__("You don't have permission to perform this action")
        self.permission = permission


class NotFound(RequestRejected):
    """The thing does not exist, or belongs to someone else: the two look alike on purpose."""

    code = "not_found"


class ThreadNotFound(NotFound):
    """No such thread for this user."""

    code = "thread_not_found"

    def __init__(self) -> None:
        super().__init__("Thread not found")


class TurnNotFound(NotFound):
    """No such turn for this user."""

    code = "turn_not_found"

    def __init__(self) -> None:
        super().__init__("Turn not found")


class MessageNotFound(NotFound):
    """No such message in this thread. `message_id`: where the path does not tell."""

    code = "message_not_found"

    def __init__(self, message_id: str | None = None) -> None:
        super().__init__("Message not found")
        self.message_id = message_id


class ArtifactNotFound(NotFound):
    """No such artifact of this tenant."""

    code = "artifact_not_found"

    def __init__(self) -> None:
        super().__init__("Artifact not found")


class AttachmentNotFound(NotFound):
    """No such attachment in this user's threads."""

    code = "attachment_not_found"

    def __init__(self) -> None:
        super().__init__("Attachment not found")


class FileTooLarge(RequestRejected):
    """A file has more bytes than it may."""

    code = "file_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"A file may have at most {max_bytes} bytes")


class AgentSpecNotFound(NotFound):
    """No such agent spec in this tenant."""

    code = "agent_spec_not_found"

    def __init__(self) -> None:
        super().__init__("Agent spec not found")


class SlugTaken(RequestRejected):
    """Another living agent spec of the tenant has the slug."""

    code = "slug_taken"

    def __init__(self, slug: str) -> None:
        super().__init__(f"There is an agent spec with the slug {slug!r} already")


class NameTaken(RequestRejected):
    """Another thread of the scope has the name."""

    code = "name_taken"

    def __init__(self, name: str) -> None:
        super().__init__("Another thread has this name")
        self.name = name


class AgentSpecInUse(RequestRejected):
    """The tenant's default agent spec cannot be deleted."""

    code = "agent_spec_in_use"

    def __init__(self) -> None:
        super().__init__("This is the default agent; make another one the default first")


class TooManyVersions(RequestRejected):
    """An agent spec has as many versions as one may."""

    code = "too_many_versions"

    def __init__(self, most: int) -> None:
        super().__init__(f"The agent spec has {most} versions; make another one in its place")


class ThreadMovedOn(RequestRejected):
    """The thread has a newer turn than the one that was to be continued."""

    code = "thread_moved_on"

    def __init__(self) -> None:
        super().__init__("The thread has a newer turn")


class ConcurrencyConflict(RequestRejected):
    """`onConflict: reject` met an active turn on the same concurrency key."""

    code = "concurrency_conflict"

    def __init__(self, turn_id: str | None) -> None:
        """`turn_id` is None when the active turn is another user's: keys are the tenant's."""
        super().__init__("Thread already has an active turn")
        self.turn_id = turn_id


class TooManyTokens(RequestRejected):
    """The user has as many valid access tokens as one may."""

    code = "too_many_tokens"

    def __init__(self, most: int) -> None:
        super().__init__(f"You have {most} valid access tokens; revoke one first")


class StorageFull(RequestRejected):
    """The tenant would store more than it may."""

    code = "storage_full"

    def __init__(self, too_much: str) -> None:
        super().__init__(f"Your organization would have {too_much}; delete some first")


class TooManyAttachments(RequestRejected):
    """The thread has as many attachments as one may."""

    code = "too_many_attachments"

    def __init__(self, most: int) -> None:
        super().__init__(f"A thread may have at most {most} attachments; delete some first")


class ApprovalConflict(RequestRejected):
    """Decisions on tool calls that were decided otherwise, or that are not to be decided."""

    code = "approval_conflict"

    def __init__(self, turn_id: str) -> None:
        super().__init__("The turn's tool calls are not open to these decisions")
        self.turn_id: str | None = turn_id


class AutomationNotFound(NotFound):
    """No such automation in this tenant."""

    code = "automation_not_found"

    def __init__(self) -> None:
        super().__init__("Automation not found")


class AutomationRunNotFound(NotFound):
    """No such run of this tenant's automations."""

    code = "automation_run_not_found"

    def __init__(self) -> None:
        super().__init__("Automation run not found")


class ProjectNotFound(NotFound):
    """No such project for this user."""

    code = "project_not_found"

    def __init__(self) -> None:
        super().__init__("Project not found")


class NotCrystallizable(RequestRejected):
    """The thread has done nothing that an automation could do again, or too much."""

    code = "not_crystallizable"


class AutomationConflict(RequestRejected):
    """An automation or a run is not in a state in which this can be done."""

    code = "automation_conflict"


class CursorExpired(RequestRejected):
    """The event cursor can no longer be served; read the turn instead."""

    code = "cursor_expired"

    def __init__(self, turn_id: str) -> None:
        super().__init__("Events before this cursor are no longer kept; read the turn instead")
        self.turn_id = turn_id


class Overloaded(TurnkeepError):
    """Refused early, so that what was accepted is served.

    `reason` is a word for metrics, `retry_after_s` says when to come again.
    """

    code = "overloaded"

    def __init__(self, message: str, *, reason: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """As many turns wait as may: of the concurrency key, the tenant or the deployment."""

    code = "queue_full"


class RateLimitExceeded(Overloaded):
    """The credential has made more requests than its rate allows."""

    code = "rate_limit_exceeded"


class TooManyStreams(Overloaded):
    """The credential has as many streams open as it may."""

    code = "too_many_streams"


class Saturated(Overloaded):
    """The service itself does not keep up, whoever asks."""

    code = "saturated"


class TurnFailed(TurnkeepError):
    """A turn ends as `failed`. `error_code` and the message are stored and shown to its owner.

    Codes: invalid_settings, model_not_configured, model_auth, model_error, rate_limited,
    context_too_long, content_filter, output_limit, cost_limit, approval_limit, timeout, internal.
    Postgres writes three more where nobody runs the turn: `poison` (`reap_turn`), on an expired one
    `queue_ttl`, and on one that was cancelled because nobody decided in time `approval_expired`.
    """

    code = "turn_failed"

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message


class DependencyUnavailable(TurnkeepError):
    """Something of ours does not answer. `retry_after_s` is a hint in whole seconds."""

    code = "unavailable"
    retry_after_s: ClassVar[int] = 2


class PostgresUnavailable(DependencyUnavailable):
    """Postgres refuses, times out, or lost the connection."""

    code = "postgres_unavailable"


class PostgresBusy(PostgresUnavailable):
    """Nothing was written: a lock was held too long, or a deadlock ended by undoing this."""

    code = "postgres_busy"


class RedisUnavailable(DependencyUnavailable):
    """Redis refuses, times out, or lost the connection."""

    code = "redis_unavailable"


class IdentityProviderUnavailable(DependencyUnavailable):
    """The identity provider's keys cannot be read, and those we have are too old, if any."""

    code = "identity_provider_unavailable"


class ObjectStoreUnavailable(DependencyUnavailable):
    """The store of files refuses, times out, or has lost what it was given."""

    code = "object_store_unavailable"
