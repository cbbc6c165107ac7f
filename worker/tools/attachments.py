"""Reads and searches the texts of a thread's attachments: what did not fit into the context."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydantic import Field, JsonValue

from shared.agents.tool_names import READ_ATTACHMENT, SEARCH_ATTACHMENTS
from shared.turn.attached import AttachedName
from worker.tools.base import Arguments, AttachedTexts, Tool, ToolContext, ToolFailed

MAX_CHARS: Final = 8_000
"""Of one reading: some 2,000 tokens."""
MAX_HITS: Final = 10
MAX_SEARCHED_BYTES: Final = 16_000_000
"""Of one search, one text after the other; what is left out is told."""
MAX_WORDS: Final = 10
SEARCH_S: Final = 2.0
"""Of one search: it must not keep the other turns of its worker waiting."""
_LINES_PER_LOOK: Final = 1000
_AROUND_CHARS: Final = 200
_LISTED: Final = 20


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
        found = await _find(context.attached, arguments.name)
        part = await context.attached.read(found.attachment_id, arguments.offset, arguments.limit)
        if part is None:
            raise ToolFailed("The attachment has just been removed")
        end = arguments.offset + arguments.limit
        return {
            "attachmentId": str(found.attachment_id),
            "name": found.name,
            "text": part.text,
            "totalChars": part.total_chars,
            "nextOffset": end if end < part.total_chars else None,
            "isCut": part.is_cut,
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
        f" most {MAX_HITS} places, each with its offset for read_attachment, and in notSearched"
        " what was not, or not to its end: too much for one search."
    )
    parameters = SearchArguments
    is_deterministic = False

    async def run(self, context: ToolContext, arguments: SearchArguments) -> JsonValue:
        words = list(dict.fromkeys(arguments.query.casefold().split()))
        if not 1 <= len(words) <= MAX_WORDS:
            raise ToolFailed(f"The query must hold 1 to {MAX_WORDS} words")
        words.sort(key=len, reverse=True)  # the rarest first, as a rule
        if arguments.name is None:
            searched, left_out = _bounded(await context.attached.list_names())
        else:
            searched, left_out = [await _find(context.attached, arguments.name)], []
        hits: list[JsonValue] = []
        has_more = False
        deadline = time.monotonic() + SEARCH_S
        for one in searched:
            room = MAX_HITS - len(hits)
            found, is_whole = await context.attached.scan(
                one.attachment_id, partial(_search, words=words, most=room + 1, deadline=deadline)
            ) or ([], True)
            if not is_whole:
                left_out.append(one)
            has_more = len(found) > room
            hits += [
                {
                    "attachmentId": str(one.attachment_id),
                    "name": one.name,
                    "offset": hit.offset,
                    "text": hit.text,
                }
                for hit in found[:room]
            ]
            if has_more:
                break
        told: dict[str, JsonValue] = {"hits": hits, "hasMore": has_more}
        if left_out:
            told["notSearched"] = [one.name for one in left_out[:_LISTED]]
        return told


@dataclass(frozen=True, slots=True)
class _Hit:
    offset: int
    text: str


def _search(text: str, words: Sequence[str], most: int, deadline: float) -> tuple[list[_Hit], bool]:
    """The first lines that hold all `words`; whether the text was looked through in time."""
    hits: list[_Hit] = []
    for number, line in enumerate(re.finditer(r"[^\n]+", text)):
        if number % _LINES_PER_LOOK == 0 and time.monotonic() > deadline:
            return hits, False
        folded = line[0].casefold()
        if all(word in folded for word in words):
            at = max(0, folded.find(words[0]) - _AROUND_CHARS)
            hits.append(_Hit(line.start() + at, line[0][at : at + 2 * _AROUND_CHARS]))
            if len(hits) == most:
                break
    return hits, True


def _bounded(names: Sequence[AttachedName]) -> tuple[list[AttachedName], list[AttachedName]]:
    """What one search looks through, and what it leaves out."""
    taken: list[AttachedName] = []
    left_out: list[AttachedName] = []
    size_bytes = 0
    for one in names:
        fits = size_bytes + one.size_bytes <= MAX_SEARCHED_BYTES
        size_bytes += one.size_bytes if fits else 0
        (taken if fits else left_out).append(one)
    return taken, left_out


async def _find(attached: AttachedTexts, name: str) -> AttachedName:
    found = await attached.find(name)
    if found is not None:
        return found
    names = ", ".join(one.name for one in (await attached.list_names())[:_LISTED])
    raise ToolFailed(f"There is no such attachment. Attachments: {names or 'none'}")
