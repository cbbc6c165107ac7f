"""`file` parts of a UI message: `data:` URLs become files of the message, others are refused.

Format: RFC 2397; the AI SDK's `FileUIPart`. The type that the client names is not believed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from shared.errors import InvalidRequest
from shared.files.kinds import tell_kind
from shared.files.names import MAX_NAME_CHARS
from shared.turn.model import NewFile
from shared.turn.text import storable

MAX_FILES: Final = 10
"""Of one message; their bytes are bounded by the body that carries them."""
_DATA_URL: Final = re.compile(r"data:[^,]{0,200}?(?P<base64>;base64)?,", re.IGNORECASE)


def read_file_part(part: dict[str, Any], loc: tuple[str | int, ...]) -> NewFile:
    """The file of a part.

    Raises:
        InvalidRequest: not a `data:` URL, or not what one looks like.
    """
    url = part.get("url")
    if not isinstance(url, str):
        raise InvalidRequest((*loc, "url"), "Input should be a valid string", "string_type")
    data = _decode(url, (*loc, "url"))
    name = _read_name(part.get("filename"), (*loc, "filename"))
    kind = tell_kind(data, name)
    digest = hashlib.sha256(data).digest()
    return NewFile(data, digest, name or "file", kind.mime_type, kind.reader)


def _decode(url: str, loc: tuple[str | int, ...]) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        msg = "Only data: URLs are taken; upload the file and attach it instead"
        raise InvalidRequest(loc, msg, "url_scheme")
    try:
        body = url[head.end() :].encode("ascii")
        if head["base64"]:
            return base64.b64decode(body, validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidRequest(loc, "The data: URL is not well formed", "url_parsing") from None
    return unquote_to_bytes(body)


def _read_name(name: Any, loc: tuple[str | int, ...]) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidRequest(loc, "Input should be a valid string", "string_type")
    if len(name) > MAX_NAME_CHARS:
        msg = f"The file's name should have at most {MAX_NAME_CHARS} characters"
        raise InvalidRequest(loc, msg, "string_too_long")
    return storable(name)
