"""Pagination cursors: opaque to callers; inside, a JSON array of sort keys, checked on return."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from shared.errors import InvalidCursor

_MAX_CHARS: Final = 512
_MAX_BIGINT: Final = 2**63 - 1


def encode_cursor(keys: Sequence[Any]) -> str:
    """Sort keys of the last row shown, as URL-safe text."""
    return base64.urlsafe_b64encode(orjson.dumps(list(keys))).rstrip(b"=").decode()


def decode_cursor(cursor: str, types: tuple[type, ...]) -> list[Any]:
    """Inverse of `encode_cursor`.

    Raises:
        InvalidCursor: not a cursor with keys of these types.
    """
    if len(cursor) > _MAX_CHARS or not cursor.isascii():
        raise InvalidCursor
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        keys = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor from error
    if not isinstance(keys, list) or [type(key) for key in keys] != list(types):
        raise InvalidCursor
    if any(isinstance(key, int) and not 0 <= key <= _MAX_BIGINT for key in keys):
        raise InvalidCursor
    return keys


def encode_seq(seq: int, listing: str) -> str:
    """The cursor of a list that is ordered by a sequence number; `listing` says which list."""
    return encode_cursor([listing, seq])


def decode_seq(cursor: str, listing: str) -> int:
    """Inverse of `encode_seq`.

    Raises:
        InvalidCursor: not a cursor, or made for another list.
    """
    made_for, seq = decode_cursor(cursor, (str, int))
    if made_for != listing:
        raise InvalidCursor
    return int(seq)


def encode_time_and_id(at: datetime, id_: UUID, *listing: str) -> str:
    """The cursor of a list that is ordered by a time, then by an id; `listing` says which list."""
    seconds = int(at.replace(microsecond=0).timestamp())
    return encode_cursor([*listing, seconds * 1_000_000 + at.microsecond, str(id_)])


def decode_time_and_id(cursor: str, *listing: str) -> tuple[datetime, UUID]:
    """Inverse of `encode_time_and_id`.

    Raises:
        InvalidCursor: not such a cursor, or made for another list.
    """
    *made_for, micros, text = decode_cursor(cursor, (*(str for _ in listing), int, str))
    if made_for != list(listing):
        raise InvalidCursor
    try:
        seconds, rest = divmod(int(micros), 1_000_000)
        at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
        return at, UUID(text)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidCursor from error
