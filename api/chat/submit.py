"""From an HTTP request to a `NewTurn`: everything about it is decided here, before any effect."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from io import BytesIO
from typing import Any

from starlette.requests import Request

from api.chat.submit_body import SubmitTurn, UserMessage
from api.request_headers import check_key, is_usable_key, read_key_header, read_timezone
from api.state import state_of
from shared.errors import InvalidRequest, UnsupportedConflictPolicy
from shared.service.new_turn import choose_model, compose_turn
from shared.turn.model import (
    SUPPORTED_CONFLICT_POLICIES,
    Accepted,
    ConflictPolicy,
    NewTurn,
    Principal,
    Redo,
)


def build_turn(
    request: Request,
    principal: Principal,
    thread_id: Any,
    body: SubmitTurn,
    *,
    key_from_message: bool,
) -> NewTurn:
    """A validated turn. `key_from_message` lets the client's message id serve as idempotency key.

    Raises:
        InvalidRequest: something about the request is wrong.
    """
    redo = Redo(body.message_id) if body.trigger == "regenerate-message" else None
    # What a regenerating turn answers is in the thread, and the message's id names another turn.
    said = body.user_message() if redo is None else UserMessage("")
    model_id = choose_model(state_of(request).settings, body.model_id, body.settings)
    policy = _choose_policy(body)
    concurrency_key = _choose_concurrency_key(body, f"thread:{thread_id}")
    key = read_idempotency_key(request, body)
    scope = f"chat:{principal.user_id}"
    if key is None and key_from_message and is_usable_key(said.client_id):
        key = said.client_id
        scope = f"chat-message:{principal.user_id}:{thread_id}"
    return compose_turn(
        principal,
        thread_id,
        said.text,
        scope=scope,
        key=key,
        asked=_canonical(thread_id, said, body, concurrency_key),
        model_id=model_id,
        names_model=body.model_id is not None,
        settings={**body.settings, "timezone": read_timezone(request), "trigger": body.trigger},
        system_prompt=body.system_prompt,
        concurrency_key=concurrency_key,
        conflict_policy=policy,
        files=said.files,
        redo=redo,
    )


def accept_turn(request: Request, new: NewTurn) -> Coroutine[Any, Any, Accepted]:
    """Submits a turn as `TurnService.submit` does; its files, if any, are stored right before.

    Where there is no room they are not: the accept refuses them, unless it is a replay.

    Raises:
        Saturated: as many files are on their way as may be.
        ObjectStoreUnavailable: a file cannot be stored; nothing was accepted.
    """
    if new.files:
        return _accept_with_files(request, new)
    return state_of(request).turns.submit(new)


async def _accept_with_files(request: Request, new: NewTurn) -> Accepted:
    principal, state = new.principal, state_of(request)
    replay = await state.turns.replay_or_refuse(new)
    if replay is not None:
        return replay
    await state.threads.get(principal, new.thread_id)
    size_bytes = sum(len(file.data) for file in new.files)
    if await state.artifacts.has_room(principal, len(new.files), size_bytes):
        with state.admission.transfer(principal.counted_as):
            new = await _store_files(request, new)
    return await state.turns.submit(new)


async def _store_files(request: Request, new: NewTurn) -> NewTurn:
    artifacts = state_of(request).artifacts
    files = []
    for file in new.files:
        key = await artifacts.store(new.principal, file.sha256, BytesIO(file.data))
        files.append(replace(file, object_key=key))
    return replace(new, files=tuple(files))


def read_idempotency_key(request: Request, body: SubmitTurn) -> str | None:
    """The key of the header, or of the body.

    Raises:
        InvalidRequest: no key can be like that, or header and body differ.
    """
    sent = read_key_header(request)
    if sent is None:
        return check_key(body.idempotency_key, ("body", "idempotencyKey"))
    if body.idempotency_key is not None and body.idempotency_key != sent:
        msg = "Header and body name different idempotency keys"
        raise InvalidRequest(("header", "Idempotency-Key"), msg, "value_error")
    return sent


def _choose_concurrency_key(body: SubmitTurn, own: str) -> str:
    """`thread:` is ours: under it nobody waits behind, or learns of, another user's thread."""
    key = body.concurrency_key or own
    if key.startswith("thread:") and key != own:
        msg = "Behind 'thread:' only this thread's id may follow; choose another key"
        raise InvalidRequest(("body", "concurrencyKey"), msg)
    return key


def _choose_policy(body: SubmitTurn) -> ConflictPolicy:
    policy = body.on_conflict
    if policy not in SUPPORTED_CONFLICT_POLICIES:
        raise UnsupportedConflictPolicy(str(policy), tuple(map(str, SUPPORTED_CONFLICT_POLICIES)))
    return policy


def _canonical(
    thread_id: Any, said: UserMessage, body: SubmitTurn, concurrency_key: str
) -> dict[str, Any]:
    canonical: dict[str, Any] = {
        "thread": str(thread_id),
        "text": said.text,
        "model": body.model_id,
        "settings": body.settings,
        "key": concurrency_key,
        "onConflict": body.on_conflict,
        "systemPrompt": body.system_prompt,
    }
    if said.files:
        canonical["files"] = [[file.sha256.hex(), file.name] for file in said.files]
    if body.trigger == "regenerate-message":
        canonical["redo"] = body.message_id or "newest"
    return canonical
