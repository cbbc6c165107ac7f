"""The MechaMental thread messages surface as one thing."""

from __future__ import annotations

from typing import Final

from api.mechamental import messages, threads
from api.mechamental.dialect import tell
from api.surface import Surface

SURFACE: Final = Surface(
    "mechamental", ("/v1/orgs",), tell, (*messages.OPERATIONS, *threads.OPERATIONS)
)
