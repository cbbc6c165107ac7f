"""Results of tools about attachments that were removed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from worker.attachments.removed import NOTE, find_told, without

GONE, HERE = UUID(int=1), UUID(int=2)


def said(*contents: Any, tool: str = "read_attachment", kind: str = "tool-return") -> Any:
    parts = [
        {"part_kind": kind, "tool_name": tool, "tool_call_id": "c", "content": content}
        for content in contents
    ]
    return {"role": "tool", "content": "x", "raw_data": {"kind": "request", "parts": parts}}


def piece(attachment_id: UUID) -> dict[str, Any]:
    return {"attachmentId": str(attachment_id), "name": "a.txt", "text": "secret"}


def note(attachment_id: UUID) -> dict[str, Any]:
    return {"attachmentId": str(attachment_id), "name": "a.txt", "note": NOTE}


def test_what_was_read_of_a_removed_file_becomes_a_note() -> None:
    row = said(piece(GONE), piece(HERE))
    assert find_told([row]) == {GONE, HERE}
    assert without([row], {GONE}) == [said(note(GONE), piece(HERE))]
    assert row == said(piece(GONE), piece(HERE)), "the stored message is another's"


def test_so_do_hits_of_a_search() -> None:
    found = {"hits": [piece(GONE), piece(HERE)], "hasMore": False}
    row = said(found, tool="search_attachments")
    assert find_told([row]) == {GONE, HERE}
    left = {"hits": [note(GONE), piece(HERE)], "hasMore": False}
    assert without([row], {GONE}) == [said(left, tool="search_attachments")]


@pytest.mark.parametrize(
    "row",
    [
        said(piece(GONE), tool="current_time"),
        said(piece(GONE), kind="tool-call"),
        said("There is no such attachment", None, ["x"], {"attachmentId": 1}, {"hits": "x"}),
        said({"attachmentId": "x"}, {"hits": [1, None, {"attachmentId": "x"}]}),
        {"role": "tool", "content": "x", "raw_data": None},
        {"role": "tool", "content": "x", "raw_data": {"kind": "request"}},
        {"role": "user", "content": "x", "raw_data": said(piece(GONE))["raw_data"]},
    ],
)
def test_all_else_is_left_alone(row: Any) -> None:
    assert find_told([row]) == set()
    assert without([row], {GONE}) == [row]
