"""Ids as this surface writes them: a word for what it is, and the UUID's 32 hexadecimal digits."""

from __future__ import annotations

import re
from typing import Final, Literal
from uuid import UUID

from starlette.requests import Request

from shared.errors import (
    ArtifactNotFound,
    NotFound,
    ProjectNotFound,
    ThreadNotFound,
    TurnNotFound,
)

Kind = Literal["thread", "inter", "proj", "artifact"]
_ABSENT: Final[dict[Kind, type[NotFound]]] = {
    "thread": ThreadNotFound,
    "inter": TurnNotFound,
    "proj": ProjectNotFound,
    "artifact": ArtifactNotFound,
}
_PARAMETER: Final[dict[Kind, str]] = {
    "thread": "thread_id",
    "inter": "interaction_id",
    "proj": "project_id",
    "artifact": "artifact_id",
}
_HEX: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def show(kind: str, value: UUID) -> str:
    """The id as it is written."""
    return f"{kind}_{value.hex}"


def read(kind: Kind, text: str) -> UUID:
    """The id that `text` means: with its word, or a bare UUID.

    Raises:
        NotFound: of the kind, for there is nothing with such an id.
    """
    digits = text.removeprefix(f"{kind}_")
    if _HEX.fullmatch(digits) or _PLAIN.fullmatch(text):
        return UUID(digits)
    raise _ABSENT[kind]()


def read_path(request: Request, kind: Kind) -> UUID:
    """The id in the path.

    Raises:
        NotFound: of the kind, for there is nothing with such an id.
    """
    return read(kind, request.path_params[_PARAMETER[kind]])
