"""What requests say in headers, whatever the surface: an idempotency key, the user's time zone."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from starlette.requests import Request

from api.openapi import Header
from shared.errors import InvalidRequest

MAX_KEY_CHARS: Final = 255
KEY_HEADER: Final = Header(
    "Idempotency-Key", f"1 to {MAX_KEY_CHARS} printable ASCII characters, bare or quoted"
)
TIMEZONE_HEADER: Final = Header("X-User-Timezone", "IANA name; anything else is ignored")


def read_key_header(request: Request) -> str | None:
    """The idempotency key of the header, bare or as a quoted string; None: there is none.

    Follows draft-ietf-httpapi-idempotency-key-header-07 §2, and takes bare values as well.

    Raises:
        InvalidRequest: repeated, empty, too long or not printable ASCII.
    """
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    loc = ("header", "Idempotency-Key")
    if len(values) > 1:
        raise InvalidRequest(loc, "The header may be sent only once", "value_error")
    value = values[0].strip()
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return check_key(value, loc)


def read_timezone(request: Request) -> str | None:
    """The IANA zone of `X-User-Timezone`; None: the user's stored one counts when the turn runs.

    A browser sends the header, so a wrong one is not an error.
    """
    name = request.headers.get("x-user-timezone", "")
    try:
        return ZoneInfo(name).key if 0 < len(name) <= 64 else None
    except (ValueError, OSError, KeyError):
        return None


def check_key(key: str | None, loc: tuple[str | int, ...]) -> str | None:
    """The key as it is; None: there is none.

    Raises:
        InvalidRequest: empty, too long or not printable ASCII.
    """
    if key is None:
        return None
    if not is_usable_key(key):
        msg = f"An idempotency key has 1 to {MAX_KEY_CHARS} printable ASCII characters"
        raise InvalidRequest(loc, msg, "value_error")
    return key


def is_usable_key(key: str | None) -> bool:
    """Whether `key` can be an idempotency key."""
    return key is not None and 0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()
