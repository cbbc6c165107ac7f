"""Later turns do not see an attachment that was removed: neither do they see what tools read of it.

What a model has said about it stays said.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from shared.agents.tool_names import READ_ATTACHMENT, SEARCH_ATTACHMENTS

NOTE: Final = "The user has removed this attachment"


def find_told(rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """The attachments that results of tools in these messages are from; usually none."""
    told = set()
    for row in rows:
        if row["role"] == "tool":
            for part in _results(row["raw_data"]):
                told |= {_id_of(piece) for piece in _pieces(part["content"])}
    return {one for one in told if one is not None}


def without(rows: Sequence[Mapping[str, Any]], gone: Container[UUID]) -> list[Mapping[str, Any]]:
    """The messages, with a note in the place of what was read of attachments that are gone."""
    return [_row_without(row, gone) if row["role"] == "tool" else row for row in rows]


def _row_without(row: Mapping[str, Any], gone: Container[UUID]) -> Mapping[str, Any]:
    raw = row["raw_data"]
    replaced = {
        id(part): {**part, "content": _content_without(part["content"], gone)}
        for part in _results(raw)
    }
    if not replaced:
        return row
    parts = [replaced.get(id(part), part) for part in raw["parts"]]
    return {**row, "raw_data": {**raw, "parts": parts}}


def _results(raw: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    for part in (raw or {}).get("parts", ()):
        if (
            part.get("tool_name") in {READ_ATTACHMENT, SEARCH_ATTACHMENTS}
            and part.get("part_kind") == "tool-return"
            and isinstance(part.get("content"), dict)
        ):
            yield part


def _pieces(content: dict[str, Any]) -> list[Any]:
    """What was read of one attachment each: the result itself, or a search's hits."""
    hits = content.get("hits")
    return [content, *hits] if isinstance(hits, list) else [content]


def _content_without(content: dict[str, Any], gone: Container[UUID]) -> dict[str, Any]:
    if _id_of(content) in gone:
        return _note(content)
    hits = content.get("hits")
    if not isinstance(hits, list):
        return content
    return {**content, "hits": [_note(hit) if _id_of(hit) in gone else hit for hit in hits]}


def _note(piece: dict[str, Any]) -> dict[str, Any]:
    return {"attachmentId": piece["attachmentId"], "name": piece.get("name"), "note": NOTE}


def _id_of(piece: Any) -> UUID | None:
    told = piece.get("attachmentId") if isinstance(piece, dict) else None
    try:
        return UUID(told) if isinstance(told, str) else None
    except ValueError:  # a script may give any result
        return None
