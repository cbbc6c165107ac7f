"""What a surface is: paths of its own, how errors are told under them, and its operations.

A surface is thin. It parses, calls the services, and encodes; it stores nothing, queues nothing,
and knows no other surface. The primary one, `/api/v1`, is what is left when no other prefix
matches.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from api.openapi import Operation
from api.problems import Dialect


@dataclass(frozen=True, slots=True)
class Surface:
    """A front door of its own."""

    name: str
    prefixes: tuple[str, ...]
    """Paths that begin with one of these are its own, also those that lead nowhere."""
    dialect: Dialect
    operations: tuple[Operation, ...] = ()
    plain_routes: tuple[Route, ...] = ()
    """Beyond the operations, such as `OPTIONS`; they are in no document."""

    @property
    def dialects(self) -> tuple[tuple[str, Dialect], ...]:
        """As `ApiState.dialects` wants them."""
        return tuple((prefix, self.dialect) for prefix in self.prefixes)
