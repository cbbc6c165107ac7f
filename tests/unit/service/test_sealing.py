"""What is sealed is opened by the same pepper at the same place, and by nothing else."""

from __future__ import annotations

import pytest

from shared.service.sealing import SealBroken, Sealer

SECRET = "tøken"


def test_what_is_sealed_is_opened_again() -> None:
    sealed = Sealer(b"pepper").seal(SECRET, "a/b")
    assert Sealer(b"pepper").open(sealed, "a/b") == SECRET
    assert SECRET.encode() not in sealed
    assert Sealer(b"pepper").seal(SECRET, "a/b") != sealed, "never the same twice"


@pytest.mark.parametrize("change", ["pepper", "place", "byte", "version", "cut", "nothing"])
def test_what_was_changed_is_not_opened(change: str) -> None:
    sealed = Sealer(b"pepper").seal(SECRET, "a/b")
    pepper, place = b"pepper", "a/b"
    match change:
        case "pepper":
            pepper = b"another"
        case "place":
            place = "a/c"
        case "byte":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "version":
            sealed = b"\x02" + sealed[1:]
        case "cut":
            sealed = sealed[:9]
        case _:
            sealed = b""
    with pytest.raises(SealBroken):
        Sealer(pepper).open(sealed, place)
