"""Answers of Postgres that many turns need: kept for a while, asked for once at a time."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, NamedTuple, TypeVar

MAX_KEPT: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Kept(NamedTuple, Generic[V]):
    value: V
    until: float
    size_bytes: int


class Recent(Generic[K, V]):
    """Values by key, at most `MAX_KEPT` and `max_bytes`; the one unused for longest goes first.

    `size_of` says how many bytes a value holds, roughly.
    """

    def __init__(
        self,
        load: Callable[[K], Coroutine[Any, Any, V]],
        *,
        good_for_s: float,
        size_of: Callable[[V], int],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._load = load
        self._good_for_s = good_for_s
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()
        self._kept_bytes = 0
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The value; whoever asks while it is being loaded waits for the same answer.

        Raises:
            Exception: whatever `load` raised; nothing is kept of that.
        """
        known = self._kept.get(key)
        if known is not None and known.until > time.monotonic():
            self._kept.move_to_end(key)
            return known.value
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load_and_keep(key))
            task.add_done_callback(functools.partial(self._loaded, key))
        return await asyncio.shield(task)

    async def _load_and_keep(self, key: K) -> V:
        asked_at = time.monotonic()
        value = await self._load(key)
        self._forget(self._kept.pop(key, None))
        kept = _Kept(value, asked_at + self._good_for_s, self._size_of(value))
        self._kept[key] = kept
        self._kept_bytes += kept.size_bytes
        while len(self._kept) > MAX_KEPT or self._kept_bytes > self._max_bytes:
            self._forget(self._kept.popitem(last=False)[1])
        return value

    def _forget(self, kept: _Kept[V] | None) -> None:
        if kept is not None:
            self._kept_bytes -= kept.size_bytes

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # read here: every caller may have gone
