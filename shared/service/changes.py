"""What an update changes: a field that is not given stays as it is; None is a value like others."""

from __future__ import annotations

from typing import Final

UNCHANGED: Final = object()


def as_flagged(*values: object) -> list[object]:
    """Arguments of an update: for each value whether it is given, then the value itself."""
    arguments: list[object] = []
    for value in values:
        is_given = value is not UNCHANGED
        arguments += [is_given, value if is_given else None]
    return arguments
