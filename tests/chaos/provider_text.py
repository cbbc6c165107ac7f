"""What the fake provider says: every word names its origin, and anybody can compute or check it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

from tests.fixtures.chance import seeded

_MARK = '{"fake":'
_WORD = re.compile(r"([\w-]+)/([\w-]+)/(\d+)/(\d+)/([0-9a-f]{8}) ")


class Word(NamedTuple):
    """Where one word comes from. `call` counts the calls made for a turn from 1, `n` its words."""

    canary: str
    turn: str
    call: int
    n: int


def word(seed: int, origin: Word) -> str:
    """The word itself, about 40 bytes with the space behind it: one delta."""
    place = "/".join(map(str, origin))
    check = hashlib.blake2s(f"{seed}/{place}".encode(), digest_size=4).hexdigest()
    return f"{place}/{check} "


def answer(seed: int, turn: str, *, canary: str = "none", call: int = 1, deltas: int = 5) -> str:
    """The whole text of a call that says `deltas` words."""
    return "".join(word(seed, Word(canary, turn, call, n)) for n in range(deltas))


def origins(seed: int, text: str) -> Iterator[Word]:
    """The origin of every word of `text`.

    Raises:
        ValueError: some of it is not this provider's, or not whole.
    """
    place = 0
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None:
            raise ValueError(f"not the provider's: {text[place : place + 60]!r}")
        origin = Word(match[1], match[2], int(match[3]), int(match[4]))
        if word(seed, origin) != match[0]:
            raise ValueError(f"forged: {match[0]!r}")
        place = match.end()
        yield origin


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one call does. `do` names a method of `fake_provider.Misbehaviour`."""

    do: str = "text"
    deltas: int = 5
    per_second: float = 0
    """Deltas, or bytes of a drip; 0: as fast as they are read."""
    at: int = 2
    """Deltas before the mischief; 0: behind the response's head; -1: before it."""
    status: int = 500
    retry_after: str | None = None
    size: int = 0
    """Bytes of what is large."""
    value: Any = None
    """What the behaviour's method says it is."""

    @classmethod
    def of(cls, given: dict[str, Any] | Behaviour) -> Self | Behaviour:
        return given if isinstance(given, Behaviour) else cls(**given)


@dataclass(frozen=True, slots=True)
class Directive:
    """What a prompt asks for: `calls` are the behaviours of the 1st, 2nd, … call; the last stays.

    Without `calls` the provider's schedule decides.
    """

    turn: str
    canary: str = "none"
    calls: tuple[Behaviour, ...] = field(default=())

    def prompt(self) -> str:
        """The directive as a prompt, or a part of one."""
        return f"{_MARK}{json.dumps(asdict(self))}}}"

    @classmethod
    def find(cls, prompt: str) -> Directive:
        """The directive in a prompt; without one, a turn named after the prompt's hash."""
        start = prompt.find(_MARK)
        if start < 0:
            return cls(hashlib.blake2s(prompt.encode(), digest_size=6).hexdigest())
        given: dict[str, Any] = json.JSONDecoder().raw_decode(prompt, start)[0]["fake"]
        calls = tuple(Behaviour(**call) for call in given.pop("calls", ()))
        return cls(**given, calls=calls)

    def behaviour(self, call: int) -> Behaviour | None:
        return self.calls[min(call, len(self.calls)) - 1] if self.calls else None


class Schedule:
    """Seeded behaviours for turns that ask for none: a function of seed, turn and call."""

    def __init__(self, seed: int, weighted: dict[Behaviour, float] | None = None) -> None:
        self._seed = seed
        self._weighted = weighted or {Behaviour(): 1.0}

    def behaviour(self, turn: str, call: int) -> Behaviour:
        behaviours, weights = list(self._weighted), list(self._weighted.values())
        chance = seeded(
            int.from_bytes(hashlib.blake2s(f"{self._seed}/{turn}/{call}".encode()).digest())
        )
        return chance.choices(behaviours, weights)[0]


MIXED = {
    Behaviour(deltas=20, per_second=200): 12.0,
    Behaviour("status", status=429, retry_after="1"): 2.0,
    Behaviour("status", status=429): 1.0,
    Behaviour("status", status=500): 1.0,
    Behaviour("status", status=503): 1.0,
    Behaviour("stall", at=-1): 0.5,
    Behaviour("stall", at=3): 0.5,
    Behaviour("reset", at=-1): 1.0,
    Behaviour("reset", at=0): 0.5,
    Behaviour("reset_in_delta", at=3): 1.0,
    Behaviour("cut", at=3): 0.5,
    Behaviour("bad_utf8"): 0.5,
    Behaviour("hostile_text"): 1.0,
    Behaviour("broken_json"): 0.5,
    Behaviour("html"): 0.5,
}
"""A bad day: about half of the calls are well."""
