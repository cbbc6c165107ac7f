"""Who asks, for which threads, and whether they may."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError
from starlette.requests import Request

from api.auth import authenticate_bearer
from api.mechamental.schemas import ThreadPath
from api.problems import InvalidFields, fields_of
from api.state import state_of
from shared.errors import NotFound, OutOfReach
from shared.service.named_threads import NamedThread, Scope
from shared.turn.model import CredentialKind, Permission, Principal

_KINDS: Final = frozenset({CredentialKind.MECHAMENTAL})


async def admit(request: Request, permission: Permission) -> Principal:
    """Who asks, if their token may do this there.

    Raises:
        NotAuthenticated: no token, or a wrong one; and the other errors of `authenticate_bearer`.
        OutOfReach: the token is restricted to other actions, workspaces or namespaces.
    """
    principal = await authenticate_bearer(request, admits=_KINDS)
    reach, asked = principal.reach, request.path_params
    for allowed, wanted, lacking in (
        (reach.permissions, permission, permission),
        (reach.workspaces, asked["workspace_id"], "workspaces:access"),
        (reach.namespaces, asked["namespace_id"], "namespaces:access"),
    ):
        if allowed is not None and wanted not in allowed:
            raise OutOfReach(lacking)
    return principal


def read_path(request: Request) -> ThreadPath:
    """The ids of the path.

    Raises:
        InvalidFields: too long, or with a NUL.
    """
    try:
        return ThreadPath.model_validate(request.path_params)
    except ValidationError as error:
        raise fields_of(error, "path") from None


def require_same(path: ThreadPath, body: Any) -> None:
    """Ids of a body are those of the path, as far as both have them; null is none, where it may be.

    Raises:
        InvalidFields: `value_error`.
    """
    wrong = [
        (name, getattr(body, name))
        for name in ThreadPath.model_fields
        if getattr(path, name) is not None
        and (getattr(body, name) is not None or type(body).model_fields[name].is_required())
        and getattr(body, name) != getattr(path, name)
    ]
    if wrong:
        msg = "Value error, the id must be the same as in the path"
        raise InvalidFields(
            [{"loc": ["body", name], "msg": msg, "type": "value_error"} for name, _ in wrong],
            [{"input": value, "ctx": {}} for _, value in wrong],
        )


async def require_organization(request: Request, principal: Principal) -> None:
    """The organization of the path is the token's: no other one exists for it.

    Raises:
        NotFound: it is not.
    """
    name = request.path_params["org_id"]
    if not await state_of(request).users.is_organization(principal, name):
        raise NotFound("Organization not found")


async def find_thread(request: Request, principal: Principal, path: ThreadPath) -> NamedThread:
    """The thread of the path.

    Raises:
        NotFound: another organization.
        ThreadNotFound: there is none, or not for this token.
    """
    await require_organization(request, principal)
    scope = Scope(path.workspace_id, path.namespace_id, path.app_id)
    return await state_of(request).named_threads.find(principal, scope, path.thread_id or "")
