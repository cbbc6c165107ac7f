"""The YAML at the head of an agent spec, read within bounds: a small, plain subset of YAML 1.2.

No anchors, aliases, tags, merge keys or second documents; no key twice; nothing that JSON or
Postgres cannot hold. Scalars are null, true or false, numbers, and else texts: `no` and
`2026-01-01` are texts.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, NoReturn

import yaml

from shared.turn.text import storable

MAX_CHARS: Final = 16_384
MAX_DEPTH: Final = 8
MAX_NODES: Final = 2000
_WORD: Final = re.compile(r"[a-z][a-z0-9_-]*")


class YamlRefused(ValueError):
    """The text is not the YAML that is read here; the message says why and in which line."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """Composes and constructs at once, counting; made for one text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            _refuse("anchors and aliases are not read", event)
        if event.tag is not None:
            _refuse("tags are not read", event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(f"more than {MAX_NODES} values", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                _refuse("a key is not a plain text", key_node)
            key = self.construct_scalar(key_node)
            if key in found:
                _refuse(f"the key {key[:40]!r} stands twice", key_node)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if storable(value) != value:
            _refuse("a text holds a character that cannot be stored", node)
        return value


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Quotes every text but plain words, so that none is taken for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """A value that stands twice is written twice: aliases are not read."""
        return True


def _quoted(dumper: Any, text: str) -> Any:
    is_word = _WORD.fullmatch(text) and text not in ("null", "true", "false")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_word else '"')


_Dumper.add_representer(str, _quoted)

# YAML 1.2 core schema (§10.3.2) in decimal; a longer number would lose digits and stays a text.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"0|[-+]?[1-9][0-9]{0,17}", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18}|[0-9]{1,18}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


def load_yaml_head(text: str) -> dict[str, Any]:
    """The mapping that `text` holds, as JSON values.

    Raises:
        YamlRefused: it is something else, or too large.
    """
    if len(text) > MAX_CHARS:
        raise YamlRefused(f"it should have at most {MAX_CHARS} characters")
    loader: Any = None
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlRefused(_at(error.problem or error.context or "not YAML", mark)) from None
    except yaml.YAMLError:
        raise YamlRefused("it holds a character that YAML does not know") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(value, dict):
        raise YamlRefused("it should be a mapping, such as `name: Assistant`")
    return value


def dump_yaml_head(head: dict[str, Any]) -> str:
    """Lines that `load_yaml_head` reads as `head`, which holds JSON values."""
    lines: str = yaml.dump(
        head, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return lines


def _refuse(why: str, where: Any) -> NoReturn:
    raise YamlRefused(_at(why, where.start_mark))


def _at(why: str, mark: Any) -> str:
    return why if mark is None else f"{why} (line {mark.line + 2})"  # the first is `---`
