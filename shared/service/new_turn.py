"""A `NewTurn` of what a surface knows about it; what all surfaces decide alike is decided here."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import orjson

from shared.errors import UnknownModel
from shared.ids import new_id
from shared.settings import Settings
from shared.turn.messages import user_request
from shared.turn.model import ConflictPolicy, NewFile, NewTurn, Principal, Redo
from shared.turn.script import validate_script


def choose_model(deployment: Settings, wanted: str | None, settings: dict[str, Any]) -> str:
    """The id of the model that was asked for; None: of the deployment's own.

    Raises:
        UnknownModel: the deployment cannot run it.
        InvalidRequest: it is the scripted one, and `script` of the turn's settings cannot be run.
    """
    model_id = wanted or deployment.default_model
    if not deployment.runs_model(model_id):
        raise UnknownModel(model_id, deployment.model_prefixes())
    if model_id.startswith("scripted"):
        validate_script(settings)
    return model_id


def compose_turn(
    principal: Principal,
    thread_id: UUID,
    text: str,
    *,
    scope: str,
    key: str | None,
    asked: Any,
    model_id: str,
    names_model: bool,
    settings: dict[str, Any],
    system_prompt: str | None = None,
    concurrency_key: str | None = None,
    conflict_policy: ConflictPolicy = ConflictPolicy.ENQUEUE,
    files: tuple[NewFile, ...] = (),
    redo: Redo | None = None,
) -> NewTurn:
    """A turn with ids of its own.

    `concurrency_key`: whose line it waits in; None: its thread's.
    `key`: the client's idempotency key, of this `scope`; None: the turn's id takes its place.
    `asked`: the canonical request as JSON, all that decides what is answered.
    """
    turn_id = new_id()
    return NewTurn(
        id=turn_id,
        principal=principal,
        thread_id=thread_id,
        input_message_id=new_id(),
        planned_output_message_id=new_id(),
        text=text,
        raw_message=user_request(text),
        model_id=model_id,
        settings=settings,
        system_prompt=system_prompt,
        concurrency_key=concurrency_key or f"thread:{thread_id}",
        conflict_policy=conflict_policy,
        idempotency_scope=scope,
        idempotency_key=key or str(turn_id),
        client_chose_key=key is not None,
        fingerprint=hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest(),
        files=files,
        names_model=names_model,
        redo=redo,
    )
