"""The loader of Lua scripts: a header binds what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.redis import scripts
from shared.redis.scripts import Word, load_script, script_names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scripts, "_FOLDER", tmp_path)
    return tmp_path


def test_the_header_binds_names(folder: Path) -> None:
    (folder / "a.lua").write_text("-- What.\n-- KEYS: one two\n-- ARGV: three\nreturn three\n")
    script = load_script.__wrapped__("a")
    assert script.keys == ("one", "two")
    assert script.args == ("three",)
    lines = script.body.decode().splitlines()
    assert lines[:3] == ["#!lua", "local one, two = KEYS[1], KEYS[2]", "local three = ARGV[1]"]


@pytest.mark.parametrize("text", ["return 1", "-- KEYS: a\nreturn 1", "-- ARGV: a\nreturn 1"])
def test_a_script_without_a_whole_header_is_refused(folder: Path, text: str) -> None:
    (folder / "b.lua").write_text(text)
    with pytest.raises(ValueError, match="needs a"):
        load_script.__wrapped__("b")


@pytest.mark.parametrize("name", script_names())
def test_a_script_uses_all_that_its_header_names(name: str) -> None:
    script = load_script(name)
    code = [
        line for line in script.body.decode().splitlines()[3:] if not line.lstrip().startswith("--")
    ]
    for bound in (*script.keys, *script.args):
        assert any(bound in line for line in code), f"{name} never uses {bound}"


def test_the_wrong_number_of_arguments_is_refused() -> None:
    script = load_script("take_ready")
    with pytest.raises(ValueError, match="take_ready takes KEYS"):
        script.check(("a",), (1, 2))
    with pytest.raises(ValueError, match="take_ready takes KEYS"):
        script.check(("a", "b", "c", "d"), (1,))


def test_every_word_of_the_scripts_is_known() -> None:
    import re

    said = set()
    for name in ("open_log", "append_log"):
        said |= set(re.findall(r"\{'([A-Z]+)'", load_script(name).body.decode()))
    assert said == {str(word) for word in Word}
