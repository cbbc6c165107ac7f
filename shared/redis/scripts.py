"""Loads `lua/*.lua`. The header of a script names its KEYS and ARGV, and binds them: it cannot lie.

A script file starts with `-- KEYS: a b c` and `-- ARGV: x y z`; the loader turns both into
`local a, b, c = KEYS[1], …`. Scripts answer words, see `Word`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

from shared.redis.connection import Argument, RedisConnection, RedisReplyError

_FOLDER: Final = Path(__file__).with_name("lua")
_HEADER: Final = re.compile(r"^-- (KEYS|ARGV):(.*)$", re.MULTILINE)


class Word(StrEnum):
    """What a script of the event log answers."""

    OK = "OK"
    DUP = "DUP"
    """Appended before: a blind retry. The last seq is told."""
    FENCED = "FENCED"
    """A newer attempt owns the log."""
    CLOSED = "CLOSED"
    """The log has its `turn.ended`."""
    GAP = "GAP"
    """Events before these are missing. The last seq is told."""
    NOSTATE = "NOSTATE"
    """Redis does not know this log (any more), or not under this generation."""
    STALEGEN = "STALEGEN"
    """The generation the caller read is not the present one."""
    FULL = "FULL"
    """The log has reached its size limit."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script with its SHA-1 and the number and names of what it takes."""

    name: str
    body: bytes
    sha: str
    keys: tuple[str, ...]
    args: tuple[str, ...]

    async def run(
        self, connection: RedisConnection, keys: tuple[str, ...], args: tuple[Argument, ...]
    ) -> Any:
        """Runs the script once; loads it first when Redis has forgotten it.

        Raises:
            RedisUnavailable: as `RedisConnection.call`.
            RedisReplyError: the script failed.
        """
        self.check(keys, args)
        try:
            return await connection.call("EVALSHA", self.sha, len(keys), *keys, *args)
        except RedisReplyError as error:
            if error.kind != "NOSCRIPT":
                raise
        return await connection.call("EVAL", self.body, len(keys), *keys, *args)

    def send(
        self, connection: RedisConnection, keys: tuple[str, ...], args: tuple[Argument, ...]
    ) -> asyncio.Future[Any]:
        """As `run`, see `RedisConnection.send`; a script that Redis has forgotten is an error."""
        self.check(keys, args)
        return connection.send("EVALSHA", self.sha, len(keys), *keys, *args)

    def check(self, keys: tuple[str, ...], args: tuple[Argument, ...]) -> None:
        """Raises ValueError when the number of keys or arguments is not the header's."""
        if len(keys) != len(self.keys) or len(args) != len(self.args):
            raise ValueError(f"{self.name} takes KEYS {self.keys} and ARGV {self.args}")


@cache
def load_script(name: str) -> Script:
    """The script `lua/<name>.lua`.

    Raises:
        ValueError: the file lacks a header.
    """
    text = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    header = {kind: tuple(names.split()) for kind, names in _HEADER.findall(text)}
    if set(header) != {"KEYS", "ARGV"}:
        raise ValueError(f"{name}.lua needs a '-- KEYS:' and a '-- ARGV:' line")
    bound = "\n".join(
        f"local {', '.join(names)} = {', '.join(f'{kind}[{i}]' for i in range(1, len(names) + 1))}"
        for kind, names in header.items()
        if names
    )
    # The first line makes Redis check its memory limit before the script, not half-way through it.
    body = f"#!lua\n{bound}\n{text}".encode()
    sha = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return Script(name, body, sha, header["KEYS"], header["ARGV"])


def script_names() -> list[str]:
    """Names of all scripts."""
    return sorted(path.stem for path in _FOLDER.glob("*.lua"))
