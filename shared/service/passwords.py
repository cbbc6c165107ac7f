"""Passwords: argon2id, in threads of their own, only so many at once.

A hash takes some 25 ms and 19 MiB on purpose. The event loop never waits for one, and a flood of
guesses costs two threads and a short line, never memory without end.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.errors import Saturated

T = TypeVar("T")

MIN_CHARS: Final = 8
MAX_CHARS: Final = 1024
MEMORY_KIB: Final = 19_456
PASSES: Final = 2
THREADS: Final = 2
MAX_WAITING: Final = 32
# OWASP's smaller setting for argon2id: m=19 MiB, t=2, p=1.
_HASHER: Final = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


_NOBODYS: Final = (
    f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$"
    f"{_encode(secrets.token_bytes(16))}${_encode(secrets.token_bytes(32))}"
)
"""A hash that no password has; trying one costs what trying any costs."""


def hash_password(password: str) -> str:
    """What is stored of a password. Takes 25 ms of this thread.

    Raises:
        ValueError: too short, too long, or with characters no keyboard makes.
    """
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise ValueError(f"a password has {MIN_CHARS} to {MAX_CHARS} characters")
    if not password.isprintable():
        raise ValueError("a password has no control characters")
    return _HASHER.hash(_normalised(password))


def new_password() -> str:
    """120 random bits that can be typed."""
    return "-".join(secrets.token_hex(5) for _ in range(3))


def _normalised(password: str) -> str:
    # The same characters, however a keyboard composes them (NIST SP 800-63B §3.1.1.2).
    return unicodedata.normalize("NFKC", password)


def is_right(stored: str, password: str) -> bool:
    """Whether the password is the stored one. Takes 25 ms of this thread."""
    try:
        return _HASHER.verify(stored, _normalised(password))
    except (VerificationError, InvalidHashError):
        return False


class Passwords:
    """Checks passwords for an API process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="password")
        self._under_way = 0

    def close(self) -> None:
        """Begins no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def is_right(self, stored: str | None, password: str) -> bool:
        """Whether the password is the stored one; as much work when none is stored.

        Raises:
            Saturated: too many are being checked.
        """
        found = await self._run(lambda: is_right(stored or _NOBODYS, password))
        return found and stored is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._under_way >= MAX_WAITING:
            raise Saturated("The service is at its limit", reason="passwords", retry_after_s=1)
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)
        # Who leaves does not make room: the thread works on.
        return await asyncio.shield(future)

    def _done(self, _: object) -> None:
        self._under_way -= 1
