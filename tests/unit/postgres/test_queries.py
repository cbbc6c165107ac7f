"""The loader of named queries, and rules that every query keeps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.postgres import queries
from shared.postgres.queries import load_queries, sql


def parse(tmp_path: Path, text: str) -> list[queries.Query]:
    path = tmp_path / "some.sql"
    path.write_text(text)
    return queries._parse(path)


def test_a_file_is_split_at_its_names(tmp_path: Path) -> None:
    first, second = parse(
        tmp_path,
        "-- name: get_a :one tenant\n-- Why a.\nselect 1;\n\n"
        "-- name: list_b :many engine\n-- Why b.\nselect 2;\n",
    )
    assert (first.name, first.kind, first.purpose) == ("get_a", "one", "Why a.")
    assert (first.role, second.role) == ("tenant", "engine")
    assert first.sql.endswith("select 1;")
    assert (second.name, second.kind, second.file) == ("list_b", "many", "some.sql")


def test_a_query_without_a_purpose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks a line of purpose"):
        parse(tmp_path, "-- name: get_a :one engine\nselect 1;\n")


def test_guards_are_filled_from_the_state_machine(tmp_path: Path) -> None:
    (query,) = parse(
        tmp_path,
        "-- name: a :one engine\n-- b\n{sources:claim} {target:claim} {active} {terminal}\n",
    )
    assert query.sql.splitlines()[-1] == (
        "'pending' 'running'::turn_status 'awaiting_approval', 'pending', 'running' "
        "'cancelled', 'completed', 'expired', 'failed'"
    )


def test_an_unknown_guard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="teleport"):
        parse(tmp_path, "-- name: a :one engine\n-- b\n{sources:teleport}\n")


def test_a_name_that_stands_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.sql", "b.sql"):
        (tmp_path / name).write_text("-- name: twice :one engine\n-- Why.\nselect 1;\n")
    monkeypatch.setattr(queries, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match="stands twice"):
        load_queries.__wrapped__()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        sql("no_such_query", "engine")


def test_a_query_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither engine nor tenant"):
        parse(tmp_path, "-- name: get_a :one\n-- Why a.\nselect 1;\n")


def test_a_query_runs_as_one_role_only() -> None:
    with pytest.raises(ValueError, match="get_turn is a statement of the tenant"):
        sql("get_turn", "engine")
    with pytest.raises(ValueError, match="claim_turns is a statement of the engine"):
        sql("claim_turns", "tenant")


@pytest.mark.parametrize("name", sorted(load_queries()))
def test_every_query_is_scoped_to_a_tenant_or_says_that_it_is_not(name: str) -> None:
    text = load_queries()[name].sql
    is_system = "scope: system" in text
    assert is_system or re.search(r"tenant_id|\$1 tenant", text), name


@pytest.mark.parametrize("name", sorted(load_queries()))
def test_no_guard_is_left_unfilled(name: str) -> None:
    assert not re.search(r"\{\w+(:\w+)?\}", load_queries()[name].sql)


def test_every_query_is_asked_for_by_name() -> None:
    folders = ("api", "shared", "worker")
    code = "\n".join(path.read_text() for name in folders for path in Path(name).rglob("*.py"))
    assert not [name for name in load_queries() if f'"{name}"' not in code]
