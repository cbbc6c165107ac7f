"""The documents name what exists: the diagram, the keys, the files and the tests."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from uuid import UUID

import pytest

from shared.redis.keys import Keys
from shared.turn.state import mermaid

_ARCHITECTURE = Path("docs/architecture.md")
_DOCUMENTS = [
    Path("README.md"),
    Path("SECURITY.md"),
    *sorted(Path("docs").glob("*.md")),
    *sorted(Path("docs/decisions").glob("*.md")),
    *sorted(Path("docs/surfaces").glob("*.md")),
]
_PATH = re.compile(r"`((?:api|benchmarks|deploy|docs|shared|tests|worker)/[\w./-]*)(?:::(\w+))?`")


def test_the_architecture_shows_the_state_machine() -> None:
    assert mermaid() in _ARCHITECTURE.read_text()


@pytest.mark.parametrize("document", _DOCUMENTS, ids=str)
def test_what_a_document_points_at_exists(document: Path) -> None:
    for path, test in _PATH.findall(document.read_text()):
        assert Path(path).exists(), path
        assert not test or f"def {test}(" in Path(path).read_text(), test


def test_the_table_of_keys_is_complete() -> None:
    keys, some_id = Keys(), UUID(int=0)
    properties = [
        name
        for name, value in vars(Keys).items()
        if isinstance(value, cached_property) and not name.startswith("_")
    ]
    named = [str(getattr(keys, name)) for name in properties]
    named += [keys.line(some_id, "k"), keys.busy(some_id, "k"), keys.meta(some_id)]
    named += [keys.log(some_id), keys.feed(some_id), keys.control("w")]
    told = re.findall(r"`…:(\w+)", _ARCHITECTURE.read_text())
    assert set(told) == {name.partition("}:")[2].partition(":")[0] for name in named}
