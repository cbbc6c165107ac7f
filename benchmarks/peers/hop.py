"""What the peers' programs share: arguments, the sender's random pauses, the worker's notes."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


def role() -> str:
    return sys.argv[1]


def redis_port() -> int:
    return int(sys.argv[2])


def redis_url() -> str:
    return f"redis://127.0.0.1:{redis_port()}"


def note(sent_at: float) -> None:
    """Called first by each job: both ends read the same machine's clock."""
    hop_s = time.time() - sent_at
    with Path(sys.argv[3]).open("a") as file:
        file.write(f"{hop_s}\n")


async def send_all(enqueue: Callable[[float], Awaitable[Any]]) -> None:
    """Enqueues one job at a time on an idle system, in step with nobody's timer."""
    for _ in range(int(sys.argv[3])):
        await asyncio.sleep(random.uniform(0.02, 0.12))
        await enqueue(time.time())
