"""Pagination cursors as clients hold them: signed, and good on the surface that gave them alone.

What stands before the signature is the services' own text (`shared.service.page_cursor`), which is
checked again where it is used: a cursor grants nothing, it says where a list goes on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from starlette.requests import Request

from api.problems import prefix_of
from api.state import state_of
from shared.errors import InvalidCursor

_DIGEST_BYTES: Final = 12
_SIGNATURE_CHARS: Final = 16


class CursorSigner:
    """Signs under a key of its own, which is made of the deployment's pepper."""

    def __init__(self, pepper: bytes) -> None:
        self._key = hashlib.blake2b(pepper, person=b"cursors").digest()

    def sign(self, surface: str, cursor: str) -> str:
        """16 characters of URL-safe text."""
        said = f"{surface}\n{cursor}".encode()
        digest = hashlib.blake2b(said, key=self._key, digest_size=_DIGEST_BYTES).digest()
        return base64.urlsafe_b64encode(digest).decode()


def tell_cursor(request: Request, cursor: str | None) -> str | None:
    """A service's cursor for the client that asks; None stays None."""
    if cursor is None:
        return None
    return cursor + state_of(request).cursors.sign(prefix_of(request), cursor)


def read_cursor(request: Request, sent: str | None, name: str = "cursor") -> str | None:
    """The service's cursor in what the client has sent as the parameter `name`; nothing is None.

    Raises:
        InvalidCursor: no signature of ours, or one for another surface.
    """
    if not sent:
        return None
    cursor, signature = sent[:-_SIGNATURE_CHARS], sent[-_SIGNATURE_CHARS:]
    signed = state_of(request).cursors.sign(prefix_of(request), cursor)
    if not hmac.compare_digest(signature.encode(), signed.encode()):
        raise InvalidCursor(("query", name))
    return cursor
