"""Reads and searches the texts of a thread's attachments: what did not fit into the context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pydantic import Field, JsonValue

from shared.agents.tool_names import READ_ATTACHMENT, SEARCH_ATTACHMENTS
from shared.turn.attached import AttachedText
from worker.tools.base import Arguments, Tool, ToolContext, ToolFailed

MAX_CHARS: Final = 8_000
"""Of one reading: some 2,000 tokens."""
MAX_HITS: Final = 10
_AROUND_CHARS: Final = 200


class ReadArguments(Arguments):
    name: str = Field(
        min_length=1, max_length=500, description="Name or id of the attachment, as listed"
    )
    offset: int = Field(default=0, ge=0, description="First character to read")
    limit: int = Field(default=MAX_CHARS, ge=1, le=MAX_CHARS, description="Most characters")


class ReadAttachment(Tool[ReadArguments]):
    name = READ_ATTACHMENT
    description = (
        "Reads a part of an attachment's text. Returns the text, how many characters it has in all,"
        " and nextOffset while there is more."
    )
    parameters = ReadArguments
    is_deterministic = False

    async def run(self, context: ToolContext, arguments: ReadArguments) -> JsonValue:
        attached = _find(await context.read_attached(), arguments.name)
        end = arguments.offset + arguments.limit
        total = len(attached.text)
        return {
            "name": attached.name,
            "text": attached.text[arguments.offset : end],
            "totalChars": total,
            "nextOffset": end if end < total else None,
            "isCut": attached.is_cut,
        }


class SearchArguments(Arguments):
    query: str = Field(min_length=1, max_length=200, description="Words that must all occur")
    name: str | None = Field(
        default=None, max_length=500, description="Only in this attachment; by default in all"
    )


class SearchAttachments(Tool[SearchArguments]):
    name = SEARCH_ATTACHMENTS
    description = (
        "Finds lines of attachments that hold all words of a query, whatever their case. Returns at"
        f" most {MAX_HITS} places, each with its offset for read_attachment."
    )
    parameters = SearchArguments
    is_deterministic = False

    async def run(self, context: ToolContext, arguments: SearchArguments) -> JsonValue:
        attached = await context.read_attached()
        searched = [_find(attached, arguments.name)] if arguments.name else list(attached)
        words = arguments.query.casefold().split()
        if not words:
            raise ToolFailed("The query holds no word")
        hits: list[JsonValue] = []
        for one in searched:
            for line in re.finditer(r"[^\n]+", one.text):
                folded = line[0].casefold()
                if all(word in folded for word in words):
                    if len(hits) == MAX_HITS:
                        return {"hits": hits, "hasMore": True}
                    hits.append(_hit(one, line, words[0]))
        return {"hits": hits, "hasMore": False}


def _hit(attached: AttachedText, line: re.Match[str], word: str) -> JsonValue:
    at = max(0, line[0].casefold().find(word) - _AROUND_CHARS)
    return {
        "name": attached.name,
        "offset": line.start() + at,
        "text": line[0][at : at + 2 * _AROUND_CHARS],
    }


def _find(attached: Sequence[AttachedText], name: str) -> AttachedText:
    for one in attached:
        if name in (str(one.attachment_id), one.name):
            return one
    names = ", ".join(one.name for one in attached[:20])
    raise ToolFailed(f"There is no such attachment. Attachments: {names or 'none'}")
