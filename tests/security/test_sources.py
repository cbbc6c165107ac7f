"""What the product's own code may not do, read from its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("api", "worker", "shared", "deploy")
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "jsonpickle"}
_CALLS = {"eval", "exec", "compile", "__import__"}
SOURCES = [path for package in PACKAGES for path in sorted(Path(package).rglob("*.py"))]


def offences(tree: ast.AST) -> Iterator[str]:
    """Ways to run what was only meant to be data."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.split(".")[0] in _MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in _MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
                yield name
            case ast.Call(keywords=keywords) if any(
                keyword.arg == "shell" and not _is_false(keyword.value) for keyword in keywords
            ):
                yield "shell=True"
            case _:
                pass


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


_REASONED = {"shared/agents/yaml_head.py": {"yaml"}}
"""A subclass of the safe loader without tags or aliases: tests/unit/agents/test_spec.py."""


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_data_is_never_run(path: Path) -> None:
    assert set(offences(ast.parse(path.read_text()))) == _REASONED.get(str(path), set())


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "import marshal as m",
        "eval('1')",
        "run(x, shell=True)",
        "exec(code)",
    ],
)
def test_offences_are_found(text: str) -> None:
    assert list(offences(ast.parse(text)))


def test_redis_client_is_a_version_without_known_crosstalk() -> None:
    """CVE-2023-28859 and its kin: replies of a cancelled command went to somebody else."""
    lock = Path("requirements.lock").read_text()
    (version,) = [line for line in lock.splitlines() if line.startswith("redis==")]
    major, minor = version.removeprefix("redis==").split(" ")[0].split(".")[:2]
    assert (int(major), int(minor)) >= (5, 3)
