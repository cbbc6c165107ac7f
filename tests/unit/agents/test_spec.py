"""Agent specs are parsed strictly: what is written is what holds, and nothing is guessed."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.agents.default import DEFAULT_SLUG, default_agent_spec
from shared.agents.spec import (
    MAX_INSTRUCTIONS_CHARS,
    instructions_of,
    parse_agent_spec,
    stored_agent_spec,
    write_agent_spec,
)
from shared.agents.yaml_head import (
    MAX_DEPTH,
    MAX_NODES,
    YamlRefused,
    dump_yaml_head,
    load_yaml_head,
)
from shared.errors import InvalidRequest
from shared.turn.text import storable_json

HEAD = {"name": "Analyst", "slug": "analyst", "mode": "primary", "tools": "[calculator]"}


def write(body: str = "Be brief.", **changes: Any) -> str:
    """A spec with the head's keys changed, or left out where None."""
    head = {key: value for key, value in (HEAD | changes).items() if value is not None}
    lines = "".join(f"{key}: {value}\n" for key, value in head.items())
    return f"---\n{lines}---\n{body}"


def refusal(markdown: str) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(InvalidRequest) as refused:
        parse_agent_spec(markdown)
    return refused.value.loc, refused.value.msg


def test_all_that_a_spec_can_say() -> None:
    spec, head = parse_agent_spec(
        write(
            "\nYou answer questions.\n\n---\nBriefly.\n",
            description="Reads tables",
            model="openai:gpt-5",
            model_settings="{temperature: 0, max_tokens: 500, stop_sequences: [END]}",
            sub_agents="[reader]",
            permissions="{max_cost_per_run: 0.25, require_approval: [calculator]}",
        )
    )
    assert spec.instructions == "You answer questions.\n\n---\nBriefly."
    assert spec.frontmatter.permissions.max_cost_per_run == Decimal("0.25")
    assert spec.frontmatter.permissions.require_approval == ["calculator"]
    assert spec.frontmatter.sub_agents == ["reader"]
    assert spec.sampling == {"temperature": 0.0, "maxTokens": 500, "stopSequences": ["END"]}
    assert head["model"] == "openai:gpt-5"
    assert stored_agent_spec(head, spec.instructions) == spec


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_matter() -> None:
    spec, _ = parse_agent_spec("\ufeff" + write().replace("\n", "\r\n"))
    assert spec.instructions == "Be brief."


def test_the_default_is_a_spec() -> None:
    assert default_agent_spec().frontmatter.slug == DEFAULT_SLUG


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": None}, ("name",)),
        ({"name": "''"}, ("name",)),
        ({"name": "12"}, ("name",)),
        ({"slug": None}, ("slug",)),
        ({"slug": "Analyst"}, ("slug",)),
        ({"slug": "-a"}, ("slug",)),
        ({"slug": "a" * 65}, ("slug",)),
        ({"mode": "master"}, ("mode",)),
        ({"mode": None}, ("mode",)),
        ({"tools": None}, ("tools",)),
        ({"tools": "calculator"}, ("tools",)),
        ({"tools": "[calculator, no_such]"}, ("tools", 1)),
        ({"tools": "[calculator, calculator]"}, ("tools",)),
        ({"max_cost": "1"}, ("max_cost",)),
        ({"capabilities": "[LocalWorkspace]"}, ("capabilities",)),
        ({"model": "[a]"}, ("model",)),
        ({"model_settings": "{temperature: 9}"}, ("model_settings", "temperature")),
        ({"model_settings": "{temperature: '0'}"}, ("model_settings", "temperature")),
        ({"model_settings": "{extra_body: {}}"}, ("model_settings", "extra_body")),
        ({"permissions": "{max_cost_per_run: -1}"}, ("permissions", "max_cost_per_run")),
        ({"permissions": "{max_cost_per_run: 1e999}"}, ("permissions", "max_cost_per_run")),
        ({"permissions": "{max_cost_per_run: true}"}, ("permissions", "max_cost_per_run")),
        ({"permissions": "{require_approval: [approval]}"}, ()),
        ({"sub_agents": "[A B]"}, ("sub_agents", 0)),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(
    changes: dict[str, Any], where: tuple[str | int, ...]
) -> None:
    loc, msg = refusal(write(**changes))
    assert loc == ("body", "markdown", *where)
    assert msg


@pytest.mark.parametrize(
    "markdown",
    ["", "Be kind.", "---\nname: A\n", "--- \nname A\n---\n", " " + write(), "x\n" + write()],
)
def test_markdown_without_a_head_is_no_spec(markdown: str) -> None:
    assert refusal(markdown)[0] == ("body", "markdown")


def test_sizes_are_bounded() -> None:
    assert "characters" in refusal(write("x" * (MAX_INSTRUCTIONS_CHARS + 1)))[1]
    assert "characters" in refusal(write("x" * 70_000))[1]
    assert "characters" in refusal(write(description="x" * 17_000))[1]


BOMBS = {
    "aliases": "a: &a [x]\nb: *a",
    "an anchor alone": "a: &a x",
    "a billion laughs": "a: &a [1]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)),
    "a tag": "a: !!python/object/apply:os.system [x]",
    "a tag of the core": "a: !!str 1",
    "deep": "a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
    "very deep": "a: " + "[" * 8000,
    "wide": "a: [" + "1," * MAX_NODES + "]",
    "a key twice": "a: 1\na: 2",
    "a key twice, spelt differently": 'a: 1\n"\\x61": 2',
    "a list as key": "? [a]\n: 1",
    "two documents": "a: 1\n---\nb: 2",
    "NUL": 'a: "\\0"',
    "a lone surrogate": 'a: "\\ud800"',
    "a control character": "a: \x07",
    "no mapping": "- a",
    "nothing": "",
    "no YAML": "a: b: c",
    "a tab": "a:\n\tb: 1",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_yaml_that_is_refused(text: str) -> None:
    with pytest.raises(YamlRefused):
        load_yaml_head(text)


def test_the_line_of_a_mistake_is_the_files() -> None:
    assert "line 3" in refusal("---\nname: A\nname: B\n---\n")[1]


def test_scalars_are_those_of_json_and_else_texts() -> None:
    read = load_yaml_head(
        "a: [1, -2, 1.5, .5, 1e3, true, False, null, ~]\n"
        "b: [no, on, 2026-01-01, 12:30:00, 0x10, 1_000, 012, .inf, 99999999999999999999, <<]\n"
    )
    assert read["a"] == [1, -2, 1.5, 0.5, 1000.0, True, False, None, None]
    assert all(isinstance(value, str) for value in read["b"])


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlRefused):
        assert isinstance(load_yaml_head(text), dict)


def test_mcp_servers_stand_among_the_tools() -> None:
    tools = "['mcp:crm', calculator, 'mcp:a-1']"
    spec, _ = parse_agent_spec(write(tools=tools, permissions="{require_approval: ['mcp:crm']}"))
    assert spec.mcp_servers == ["crm", "a-1"]
    assert spec.frontmatter.permissions.require_approval == ["mcp:crm"]


@pytest.mark.parametrize(
    "name", ["mcp:", "mcp:A", "mcp:a_b", "mcp:-a", "mcp:a/b", "mcp:" + "a" * 33]
)
def test_what_cannot_name_an_mcp_server_is_no_tool(name: str) -> None:
    loc, msg = refusal(write(tools=f"[calculator, '{name}']"))
    assert loc == ("body", "markdown", "tools", 1)
    assert "mcp:<server>" in msg


PLAIN = st.text(max_size=30) | st.sampled_from(["null", "1", "-", "a: b", "---", "x\n---\ny"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(0, 2) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(PLAIN, JSON_VALUES, max_size=4), PLAIN)
def test_what_is_written_is_read_the_same(head: dict[str, Any], text: str) -> None:
    assume(storable_json(head) == head)
    assert load_yaml_head(dump_yaml_head(head)) == head


@pytest.mark.parametrize("text", ["", "x", "---\nx", "x\n---\nname: y\n---", "\ufeffx", "a\r\nb"])
def test_a_spec_that_is_written_is_read_the_same(text: str) -> None:
    head = {"name": "\n---\n", "slug": "a", "mode": "primary", "tools": [], "type": "t"}
    markdown = write_agent_spec(head, text)
    spec, read = parse_agent_spec(markdown)
    assert read == head
    assert spec.instructions == instructions_of(markdown)
    assert spec.instructions == text.replace("\r\n", "\n").strip()
