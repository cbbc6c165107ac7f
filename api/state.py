"""What the handlers of an API process stand on. `api.app` fills it in, `app.state` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

if TYPE_CHECKING:  # most of these ask for the state themselves
    from api.admission import Admission, RateLimit
    from api.failed_credentials import FailedCredentials
    from api.hot_routes import FastAnswer
    from api.page_cursors import CursorSigner
    from api.problems import Dialect
    from api.sse import StreamContext
    from shared.files.object_store import ObjectStore
    from shared.metrics import Metrics
    from shared.postgres.pool import Database
    from shared.redis.connection import RedisConnection
    from shared.redis.event_log import EventLog
    from shared.service.agent_specs import AgentSpecService
    from shared.service.approvals import ApprovalService
    from shared.service.artifacts import ArtifactService
    from shared.service.attachments import AttachmentService
    from shared.service.automation_runs import AutomationRunService
    from shared.service.automations import AutomationService
    from shared.service.cancel import CancelService
    from shared.service.chats import ChatService
    from shared.service.credentials import Credentials
    from shared.service.exchanges import Exchanges
    from shared.service.feedback import FeedbackService
    from shared.service.follow import FollowHub
    from shared.service.interactions import Interactions
    from shared.service.named_threads import NamedThreads
    from shared.service.project_artifacts import ProjectArtifacts
    from shared.service.project_threads import ProjectThreads
    from shared.service.projects import ProjectService
    from shared.service.shared_threads import SharedThreads
    from shared.service.sign_in import SignIn
    from shared.service.threads import ThreadService
    from shared.service.transient_threads import TransientThreads
    from shared.service.turns import TurnService
    from shared.service.users import UserService
    from shared.settings import Settings
    from shared.turn.model import CredentialKind


@dataclass(slots=True)
class ApiState:
    """The first half is there from the beginning, the second only within the lifespan."""

    settings: Settings
    metrics: Metrics
    failed_credentials: FailedCredentials
    rate_limit: RateLimit | None = None
    rate_limits_of: Mapping[CredentialKind, RateLimit] = field(default_factory=dict)
    """Of kinds of credentials that have a limit of their own in place of that one."""
    dialects: tuple[tuple[str, Dialect], ...] = ()
    """How errors are told under which paths; everywhere else as the primary surface does."""
    draining: bool = False
    redis_was_fit: bool = False
    """Redis has been seen to keep its keys: see `api.health`."""

    database: Database = field(init=False)
    redis: RedisConnection = field(init=False)
    event_log: EventLog = field(init=False)
    hub: FollowHub = field(init=False)
    turns: TurnService = field(init=False)
    cancels: CancelService = field(init=False)
    approvals: ApprovalService = field(init=False)
    threads: ThreadService = field(init=False)
    shared_threads: SharedThreads = field(init=False)
    named_threads: NamedThreads = field(init=False)
    exchanges: Exchanges = field(init=False)
    projects: ProjectService = field(init=False)
    project_threads: ProjectThreads = field(init=False)
    project_artifacts: ProjectArtifacts = field(init=False)
    interactions: Interactions = field(init=False)
    chats: ChatService = field(init=False)
    transient_threads: TransientThreads = field(init=False)
    feedback: FeedbackService = field(init=False)
    agent_specs: AgentSpecService = field(init=False)
    objects: ObjectStore = field(init=False)
    artifacts: ArtifactService = field(init=False)
    attachments: AttachmentService = field(init=False)
    automations: AutomationService = field(init=False)
    automation_runs: AutomationRunService = field(init=False)
    cursors: CursorSigner = field(init=False)
    credentials: Credentials = field(init=False)
    sign_in: SignIn = field(init=False)
    users: UserService = field(init=False)
    fast_get_turn: FastAnswer = field(init=False)
    admission: Admission = field(init=False)
    streams: StreamContext = field(init=False)


def state_of(request: Request) -> ApiState:
    """The state of the process that serves `request`."""
    state: ApiState = request.app.state
    return state
