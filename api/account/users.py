"""The caller's own profile and preferences."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.account.schemas import Preferences, UpdatePreferences, UpdateUser, User, user_to_dict
from api.auth import authenticate
from api.body import read_model
from api.openapi import Operation
from api.state import state_of
from api.wire import json_response

USER: Final = "/api/v1/users/me"
PREFERENCES: Final = f"{USER}/preferences"


async def get_user(request: Request) -> Response:
    """The caller."""
    principal = await authenticate(request)
    return json_response(user_to_dict(await state_of(request).users.get(principal)))


async def update_user(request: Request) -> Response:
    """Changes what the body names; null clears time zone and locale."""
    principal = await authenticate(request)
    body = await read_model(request, UpdateUser)
    row = await state_of(request).users.update(principal, **_changes_of(body))
    return json_response(user_to_dict(row))


async def update_preferences(request: Request) -> Response:
    """Changes what the body names. The time zone holds where a request brings none."""
    principal = await authenticate(request)
    body = await read_model(request, UpdatePreferences)
    row = await state_of(request).users.update(principal, **_changes_of(body))
    return json_response({"timezone": row["timezone"], "locale": row["locale"]})


def _changes_of(body: UpdatePreferences) -> dict[str, Any]:
    return {name: getattr(body, name) for name in body.model_fields_set}


OPERATIONS: Final = (
    Operation("GET", USER, get_user, "account", "The caller", responses={HTTPStatus.OK: User}),
    Operation(
        "PATCH", USER, update_user, "account", "Change the caller",
        body=UpdateUser, responses={HTTPStatus.OK: User},
    ),
    Operation(
        "PATCH", PREFERENCES, update_preferences, "account", "Change preferences",
        body=UpdatePreferences, responses={HTTPStatus.OK: Preferences},
    ),
)  # fmt: skip
