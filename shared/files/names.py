"""Names of files: kept as the client wrote them, never used as a path, made harmless when told."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote

MAX_NAME_CHARS: Final = 255
_FALLBACK: Final = "download"
_SHOWN_CHARS: Final = 120
# What no file system likes, and what means something within a quoted string.
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|;%\']')
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
_ATTR_CHARS: Final = "!#$&+-.^_`|~"
"""RFC 8187 §3.2.1: what needs no escape, beside letters and digits."""


def download_name(name: str | None) -> str:
    """The last component of `name`, without what could mislead a reader or a file system.

    Format characters go (RFC 9839's noncharacters, bidi overrides, zero width), as do leading dots
    and dashes; Windows' device names get an underscore.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    shown = "".join(char for char in last if unicodedata.category(char)[0] != "C")
    clean = _UNSAFE.sub("_", shown).strip(" .").lstrip("-").strip(" .")
    if len(clean) > _SHOWN_CHARS:
        stem, dot, suffix = clean.rpartition(".")
        is_suffix = dot and len(suffix) <= 16
        clean = stem[: _SHOWN_CHARS - 17] + dot + suffix if is_suffix else clean[:_SHOWN_CHARS]
    if _RESERVED.match(clean):
        clean = "_" + clean
    return clean or _FALLBACK


def content_disposition(name: str | None) -> str:
    """`attachment` with the name in both forms (RFC 6266 §4.3, RFC 8187)."""
    clean = download_name(name)
    ascii_name = unicodedata.normalize("NFKD", clean).encode("ascii", "ignore").decode()
    plain = download_name(ascii_name) if ascii_name else _FALLBACK
    if plain == clean:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean, safe=_ATTR_CHARS)}"
