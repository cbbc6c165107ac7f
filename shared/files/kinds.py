"""What a file is, told by its bytes alone: neither the client's type nor the name is believed.

The name only chooses between names for text, all of which are inert: nothing here is ever served to
be shown (`api/artifacts/content.py`).
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

HEAD_BYTES: Final = 65_536
"""So much of the beginning is looked at."""


class Reader(StrEnum):
    """Who can read text from a file; `worker/ingestion/read_text.py` has them."""

    TEXT = "text"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"


@dataclass(frozen=True, slots=True)
class Kind:
    """A media type, and who reads the file's text; None when it has none for a model."""

    mime_type: str
    reader: Reader | None = None


UNKNOWN: Final = Kind("application/octet-stream")
_WORD: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_MAGIC: Final = (
    (b"%PDF-", Kind("application/pdf", Reader.PDF)),
    (b"\x89PNG\r\n\x1a\n", Kind("image/png")),
    (b"\xff\xd8\xff", Kind("image/jpeg")),
    (b"GIF87a", Kind("image/gif")),
    (b"GIF89a", Kind("image/gif")),
    (b"\x1f\x8b", Kind("application/gzip")),
    (b"BZh", Kind("application/x-bzip2")),
    (b"\xfd7zXZ\x00", Kind("application/x-xz")),
    (b"7z\xbc\xaf\x27\x1c", Kind("application/x-7z-compressed")),
    (b"OggS", Kind("application/ogg")),
    (b"ID3", Kind("audio/mpeg")),
)
_ZIP: Final = b"PK\x03\x04"
_TEXT_TYPES: Final = {
    ".csv": "text/csv",
    ".htm": "text/html",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".tsv": "text/tab-separated-values",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_COMMENTS: Final = re.compile(r"^(?:\s|<!--.*?-->|<\?xml[^>]*\?>)*", re.DOTALL)
_HTML: Final = re.compile(r"<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_SVG: Final = re.compile(r"<(?:!doctype svg|svg)\b", re.IGNORECASE)


def tell_kind(head: bytes, name: str | None) -> Kind:
    """What the file is that begins with `head`, its first `HEAD_BYTES`. An empty one is text."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind("image/webp")
    if head.startswith(_ZIP):
        is_word = b"word/document.xml" in head or b"word/_rels/" in head
        return Kind(_WORD, Reader.DOCX) if is_word else Kind("application/zip")
    text = _as_text(head)
    return UNKNOWN if text is None else _tell_text(text, name)


def _tell_text(text: str, name: str | None) -> Kind:
    beginning = text[_COMMENTS.match(text).end() :][:64]  # type: ignore[union-attr]  # matches ""
    if _SVG.match(beginning):
        return Kind("image/svg+xml")
    if _HTML.match(beginning):
        return Kind("text/html", Reader.HTML)
    suffix = PurePosixPath(name or "").suffix.lower()
    mime_type = _TEXT_TYPES.get(suffix, "text/plain; charset=utf-8")
    return Kind(mime_type, Reader.TEXT)


def _as_text(head: bytes) -> str | None:
    """The text that the bytes begin with; None when they are no text."""
    encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
    try:
        # Not final: the head may end within a character.
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(text) else text
