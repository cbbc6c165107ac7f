"""Names of background jobs, so that the API can enqueue by name without knowing the workers."""

from __future__ import annotations

from typing import Any, Final

import orjson

PURGE_IDEMPOTENCY_KEYS: Final = "purge_idempotency_keys"
JOB_NAMES: Final = frozenset({PURGE_IDEMPOTENCY_KEYS})


def serialize_job(job: dict[str, Any]) -> bytes:
    """arq's job as JSON. Its default is pickle: whoever writes Redis would run code in a worker."""
    return orjson.dumps(job)


def deserialize_job(data: bytes) -> dict[str, Any]:
    """Inverse of `serialize_job`.

    Raises:
        ValueError: not a job as arq writes it.
    """
    job = orjson.loads(data)
    if not isinstance(job, dict) or not {"f", "a", "k"} <= job.keys():
        raise ValueError("not a job")
    return job
