"""Background jobs that are not turns: their names, and their form in Redis."""

from __future__ import annotations

from typing import Any, Final

import orjson

PURGE_IDEMPOTENCY_KEYS: Final = "purge_idempotency_keys"
PURGE_CREDENTIALS: Final = "purge_credentials"
COLLECT_OBJECTS: Final = "collect_objects"
PURGE_ARTIFACTS: Final = "purge_artifacts"
INGEST_FILES: Final = "ingest_files"
RUN_AUTOMATIONS: Final = "run_automations"
_LAST_MS: Final = 253_402_300_799_999  # of the year 9999, where `datetime` ends


def serialize_job(job: dict[str, Any]) -> bytes:
    """arq's job as JSON. Its default is pickle: whoever writes Redis would run code in a worker."""
    return orjson.dumps(job)


def deserialize_job(data: bytes) -> dict[str, Any]:
    """Inverse of `serialize_job`.

    A type that arq does not expect would end the worker, and each that meets the job after it.

    Raises:
        ValueError: not a job as arq writes it.
    """
    job: dict[str, Any] = orjson.loads(data)
    match job:
        case {"f": str(), "a": list(), "k": dict(), "t": int() | None, "et": int(enqueued_ms)} if (
            0 <= enqueued_ms <= _LAST_MS
        ):
            return job
        case _:
            raise ValueError("not a job")
