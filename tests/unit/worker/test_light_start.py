"""What only some turns need is not loaded by every worker."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "mcp",
    "mcp_types",
    "httpx2",
    "httpcore",
    "pydantic_ai",
    "cryptography.hazmat.primitives.kdf",
)


def test_a_worker_starts_without_the_libraries_of_models_and_of_mcp() -> None:
    code = f"import sys, worker.parts; print([m for m in {HEAVY!r} if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == "[]"
