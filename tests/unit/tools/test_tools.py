"""Each tool by itself, and the bounds that hold for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from shared.agents.spec import AgentSpec, parse_agent_spec
from shared.agents.tool_names import TOOL_NAMES
from shared.errors import PostgresUnavailable
from shared.turn.attached import AttachedName, AttachedPart
from worker.tools.attachments import MAX_SEARCHED_BYTES
from worker.tools.base import (
    MAX_RESULT_BYTES,
    NoArguments,
    Tool,
    ToolContext,
    ToolFailed,
    call_tool,
)
from worker.tools.calculator import calculate
from worker.tools.registry import TOOLS, tools_of

T = TypeVar("T")
ID = UUID(int=1)
NOON = datetime(2026, 11, 20, 19, 3, 4, tzinfo=UTC)


class Files:
    """Attachments as tools read them: texts by name."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {UUID(int=len(name)): (name, text) for name, text in texts.items()}
        self.scanned: list[str] = []

    async def find(self, name: str) -> AttachedName | None:
        names = await self.list_names()
        return next((one for one in names if name in (one.name, str(one.attachment_id))), None)

    async def list_names(self) -> Sequence[AttachedName]:
        return [AttachedName(i, name, len(text)) for i, (name, text) in self._texts.items()]

    async def read(self, attachment_id: UUID, offset: int, max_chars: int) -> AttachedPart:
        text = self._texts[attachment_id][1]
        return AttachedPart(text[offset : offset + max_chars], len(text), is_cut=False)

    async def scan(self, attachment_id: UUID, scan: Callable[[str], T]) -> T:
        name, text = self._texts[attachment_id]
        self.scanned.append(name)
        return scan(text)


CONTEXT = ToolContext(
    tenant_id=ID, user_id=ID, thread_id=ID, turn_id=ID, timezone="America/Denver",
    now=lambda: NOON, attached=Files({}),
)  # fmt: skip


async def call(tool: str, context: ToolContext = CONTEXT, /, **arguments: Any) -> Any:
    return await call_tool(TOOLS[tool], context, arguments, timeout_s=5)


async def failure(tool: str, context: ToolContext = CONTEXT, /, **arguments: Any) -> str:
    with pytest.raises(ToolFailed) as failed:
        await call(tool, context, **arguments)
    return str(failed.value)


def test_the_names_that_specs_may_use_are_the_tools_there_are() -> None:
    assert tuple(TOOLS) == TOOL_NAMES


# -- calculator


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1250 * 1.19", "1487.5"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("10 / 4", "2.5"),
        ("1 / 3", "0.3333333333333333333333333333333333"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7 % -3", "-2"),
        ("round(2.345, 2)", "2.34"),
        ("round(1.5)", "2"),
        ("floor(-1.5) + ceil(1.2)", "0"),
        ("sqrt(16) ** 0.5", "2"),
        ("max(1, 2, 3) - min(4, 5) + sum(1, 2) + abs(-1)", "3"),
        ("1_000 + 1e3", "2000"),
        ("log10(1000)", "3"),
        ("1e300 * 1e300", "1E+600"),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ("0 * -1", "0"),
        (" ( 1 + 2 ) * 3 ", "9"),
    ],
)
def test_arithmetic_is_decimal(expression: str, result: str) -> None:
    assert calculate(expression) == result


REFUSED = [
    "", "x", "1 +", "1; 2", "__import__('os')", "(1).__class__", "[1][0]", "lambda: 1", "'a'",
    "1 if 1 else 2", "True", "0x10", "1j", "2 ^ 3", "1 / 0", "1 % 0", "0 ** -1", "sqrt(-1)",
    "ln(0)", "exp(1e6)", "9 ** 9 ** 9 ** 9", "round(1, 1e9)", "round(1, 0.5)", "max()",
    "sqrt(1, 2)", "abs(x=1)", "sum(*[1])", "(" * 400 + "1" + ")" * 400,
    "1e99999", "f'{1}'", "a := 1", "1 < 2", "1 and 2", "\0", "١ + ١", "0 / 0",
]  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_what_is_no_arithmetic_is_refused_at_once(expression: str) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed):
        calculate(expression)
    assert time.monotonic() - began < 10


@given(st.text(alphabet="0123456789.+-*/%()eE, _adimnqrstxlogu", max_size=60))
def test_any_expression_has_a_value_or_a_reason(expression: str) -> None:
    with contextlib.suppress(ToolFailed):
        assert set(calculate(expression)) <= set("0123456789.+-E")


async def test_the_calculator_reads_text_of_its_length_only() -> None:
    assert await call("calculator", expression="6 * 7") == {"result": "42"}
    assert "expression" in await failure("calculator", expression="1+" * 600 + "1")


# -- current time


async def test_the_time_is_the_users_or_the_asked_zones() -> None:
    assert await call("current_time") == {
        "time": "2026-11-20T12:03:04-07:00", "timezone": "America/Denver", "weekday": "Friday",
    }  # fmt: skip
    assert (await call("current_time", timezone="Asia/Tokyo"))["weekday"] == "Saturday"
    for wrong in ("Nowhere", "../../etc/passwd", "/etc/localtime", "UTC\0"):
        assert "time zone" in await failure("current_time", timezone=wrong)


# -- attachments


@pytest.fixture
def with_files() -> ToolContext:
    files = Files({"a.txt": "alpha\nBeta gamma\n" * 3, "long.txt": "x" * 20_000})
    return replace(CONTEXT, attached=files)


async def test_an_attachment_is_read_piece_by_piece(with_files: ToolContext) -> None:
    first = await call("read_attachment", with_files, name="long.txt")
    assert (len(first["text"]), first["totalChars"], first["nextOffset"]) == (8000, 20_000, 8000)
    last = await call("read_attachment", with_files, name="long.txt", offset=16_000)
    assert (len(last["text"]), last["nextOffset"]) == (4000, None)
    by_id = await call("read_attachment", with_files, name=str(UUID(int=5)))
    assert by_id["name"] == "a.txt"
    assert "a.txt, long.txt" in await failure("read_attachment", with_files, name="b.txt")
    assert "none" in await failure("read_attachment", name="b.txt")


async def test_attachments_are_searched_for_all_words(with_files: ToolContext) -> None:
    found = await call("search_attachments", with_files, query="GAMMA beta")
    assert [hit["offset"] for hit in found["hits"]] == [6, 23, 40]
    assert found["hasMore"] is False
    assert found["hits"][0]["text"] == "Beta gamma"
    assert (await call("search_attachments", with_files, query="delta"))["hits"] == []
    for query in (" ", " ".join(map(str, range(11)))):
        assert "1 to 10 words" in await failure("search_attachments", with_files, query=query)


async def test_a_search_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tools.attachments.SEARCH_S", -1.0)
    context = replace(CONTEXT, attached=Files({"a.txt": "beta"}))
    found = await call("search_attachments", context, query="beta")
    assert (found["hits"], found["notSearched"]) == ([], ["a.txt"])


async def test_a_search_is_bounded_and_says_so() -> None:
    files = Files({"1": "beta\n" * 30, "22": "x" * MAX_SEARCHED_BYTES, "333": "beta\n"})
    context = replace(CONTEXT, attached=files)
    found = await call("search_attachments", context, query="beta")
    assert (len(found["hits"]), found["hasMore"], found["notSearched"]) == (10, True, ["22"])
    assert files.scanned == ["1"], "enough was found"
    found = await call("search_attachments", context, query="gamma")
    assert (found["hits"], found["hasMore"], found["notSearched"]) == ([], False, ["22"])
    assert files.scanned[1:] == ["1", "333"]
    found = await call("search_attachments", context, query="x", name="22")
    assert (len(found["hits"]), "notSearched" in found) == (1, False)


# -- others


async def test_http_needs_the_deployments_leave() -> None:
    assert "lets no tool" in await failure("http_request", url="https://example.org")


async def test_an_approval_that_runs_was_given() -> None:
    assert TOOLS["approval"].requires_approval
    assert await call("approval", reason="Send it") == {"approved": True}


def spec(tools: str, approved: str = "[]") -> AgentSpec:
    head = f"name: A\nslug: a\nmode: primary\ntools: {tools}\n"
    parsed, _ = parse_agent_spec(f"---\n{head}permissions: {{require_approval: {approved}}}\n---\n")
    return parsed


def test_an_agent_has_the_tools_of_its_spec() -> None:
    asked = spec("[current_time, http_request, calculator, approval]", "[calculator]")
    offered = tools_of(asked, http_allowed=True)
    assert [(one.tool.name, one.requires_approval) for one in offered] == [
        ("current_time", False), ("http_request", False), ("calculator", True), ("approval", True),
    ]  # fmt: skip
    assert "http_request" not in {o.tool.name for o in tools_of(asked, http_allowed=False)}


# -- bounds


class Odd(Tool[NoArguments]):
    name = "odd"
    description = ""
    parameters = NoArguments
    is_deterministic = False

    def __init__(self, do: Any) -> None:
        self._do = do

    async def run(self, context: ToolContext, arguments: NoArguments) -> JsonValue:
        result: JsonValue = await self._do()
        return result


async def ask(do: Any, timeout_s: float = 5, **arguments: Any) -> JsonValue:
    return await call_tool(Odd(do), CONTEXT, arguments, timeout_s=timeout_s)


async def test_a_tool_that_takes_too_long_fails() -> None:
    with pytest.raises(ToolFailed, match=r"within 0\.01 s"):
        await ask(lambda: asyncio.sleep(60), timeout_s=0.01)


@pytest.mark.parametrize("error", [KeyError("secret"), RuntimeError("secret"), TypeError()])
async def test_a_defect_of_a_tool_is_a_failed_call(error: Exception) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(ToolFailed, match=r"^The tool failed$"):
        await ask(fail)


async def test_a_store_that_is_away_is_a_failed_call() -> None:
    async def fail() -> None:
        raise PostgresUnavailable("10.0.0.1")

    with pytest.raises(ToolFailed, match="unavailable at the moment"):
        await ask(fail)


async def test_a_result_is_bounded_and_storable() -> None:
    async def huge() -> str:
        return "x" * MAX_RESULT_BYTES

    async def odd() -> dict[str, Any]:
        return {"a\0": ["\ud800", float("nan"), 2**70]}

    with pytest.raises(ToolFailed, match="bytes"):
        await ask(huge)
    assert await ask(odd) == {"a\ufffd": ["\ufffd", None, str(2**70)]}


async def test_wrong_arguments_are_told_and_a_stop_is_a_stop() -> None:
    with pytest.raises(ToolFailed, match="nope: Extra inputs"):
        await ask(lambda: asyncio.sleep(0), nope=1)
    task = asyncio.create_task(ask(lambda: asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
