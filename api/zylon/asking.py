"""From a chat request to a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request

from api.state import state_of
from api.zylon.chat_request import ZylonChatRequest
from api.zylon.ids import read, show
from api.zylon.schemas import ZylonCreateInteraction, ingest_status
from shared.errors import InvalidRequest
from shared.service.listing import Slice, TimeAndId
from shared.service.new_turn import compose_turn
from shared.service.project_threads import ProjectThread
from shared.turn.model import NewTurn, Principal
from shared.turn.preceding import PRECEDED, with_preceding

RESEARCH_SLUG: Final = "project-deep-research"
_DECIDES_NOTHING: Final[Any] = {
    "stream": True,
    "priority": True,
    "system": {"use_default_prompt", "citations"},
}
"""Members of a chat that do not change its answer, and so may differ under one idempotency key."""
MAX_ARTIFACTS: Final = 50
"""Of one message: a model is shown no more."""
_UNREAD: Final = {"NotStarted", "Processing"}


def build_turn(
    request: Request,
    owner: Principal,
    thread_id: UUID,
    chat: ZylonChatRequest,
    details: dict[str, Any] | None = None,
    key: str | None = None,
) -> NewTurn:
    """The turn of a chat that is sound.

    `details`: what is asked beside the chat, kept with its message. `key`: the client's idempotency
    key.
    """
    preceding = chat.preceding()
    details = {"content": chat.blocks(), **(details or {})}
    new = compose_turn(
        owner,
        thread_id,
        chat.prompt(),
        scope=f"zylon:{owner.acts_for or owner.user_id}:{thread_id}",
        key=key,
        asked=[str(thread_id), details, chat.model_dump(mode="json", exclude=_DECIDES_NOTHING)],
        model_id=state_of(request).settings.default_model,
        names_model=False,
        settings={**chat.settings(), **({PRECEDED: True} if preceding else {})},
        system_prompt=chat.system_prompt(),
    )
    return replace(new, raw_message=with_preceding(new.raw_message, preceding, **details))


def asked_details(body: ZylonCreateInteraction) -> dict[str, Any]:
    """What an interaction asks beside its chat.

    By its body alone: sent again it is the same, whatever has become of what it names.

    Raises:
        ArtifactNotFound: no artifact can have such an id.
    """
    return {
        "artifact_ids": [show("artifact", artifact_id) for artifact_id in _named(body)],
        "all_artifacts": body.all_artifacts,
        "agent": body.agent,
    }


async def with_surroundings(
    request: Request,
    principal: Principal,
    thread: ProjectThread,
    body: ZylonCreateInteraction,
    new: NewTurn,
) -> NewTurn:
    """The turn with the artifacts and the agent of its interaction.

    Raises:
        ArtifactNotFound: an artifact is unknown, or not the caller's to see.
        InvalidRequest: one cannot be read, or not yet; or there is no agent for research.
    """
    agent_spec_id = None
    if body.agent == "ProjectDeepResearch":
        agent_spec_id = await state_of(request).agent_specs.find_primary(principal, RESEARCH_SLUG)
        if agent_spec_id is None:
            msg = f"The organization has no agent spec with the slug {RESEARCH_SLUG}"
            raise InvalidRequest(("body", "agent"), msg)
    artifact_ids = await _require_read(request, principal, _named(body))
    if body.all_artifacts:
        of_project = await _all_of_project(request, principal, thread)
        artifact_ids = list(dict.fromkeys([*artifact_ids, *of_project]))[:MAX_ARTIFACTS]
    return replace(new, artifact_ids=tuple(artifact_ids), agent_spec_id=agent_spec_id)


def _named(body: ZylonCreateInteraction) -> list[UUID]:
    return list(dict.fromkeys(read("artifact", text) for text in body.artifact_ids))


async def _require_read(
    request: Request, principal: Principal, artifact_ids: Sequence[UUID]
) -> list[UUID]:
    if not artifact_ids:
        return []
    rows = await state_of(request).project_artifacts.find_named(principal, artifact_ids)
    for row in rows:
        status = ingest_status(row)
        if status in _UNREAD or status == "Error":
            why = "could not be ingested" if status == "Error" else "is not fully ingested"
            msg = f"{show('artifact', row['id'])} {why}: its ingest_status is {status}"
            raise InvalidRequest(("body", "artifact_ids"), msg)
    return [row["id"] for row in rows]


async def _all_of_project(
    request: Request, principal: Principal, thread: ProjectThread
) -> list[UUID]:
    """The newest artifacts of the project that can be read; those that failed are left out."""
    newest: Slice[TimeAndId] = Slice(None, is_backwards=True, skipped=0, most=MAX_ARTIFACTS)
    artifacts = state_of(request).project_artifacts
    rows, _ = await artifacts.list_artifacts(principal, thread.project_id, newest)
    unread = [row["id"] for row in rows if ingest_status(row) in _UNREAD]
    if unread:
        msg = f"{show('artifact', unread[0])} of the project is not fully ingested"
        raise InvalidRequest(("body", "all_artifacts"), msg)
    return [row["id"] for row in rows if ingest_status(row) != "Error"]
