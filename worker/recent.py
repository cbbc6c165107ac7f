"""Answers of Postgres that many turns need: kept for a while, asked for once at a time."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

MAX_KEPT: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, at most `MAX_KEPT`; the one unused for longest goes first."""

    def __init__(self, load: Callable[[K], Coroutine[Any, Any, V]], *, good_for_s: float) -> None:
        self._load = load
        self._good_for_s = good_for_s
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The value; whoever asks while it is being loaded waits for the same answer.

        Raises:
            Exception: whatever `load` raised; nothing is kept of that.
        """
        known = self._kept.get(key)
        if known is not None and known[1] > time.monotonic():
            self._kept.move_to_end(key)
            return known[0]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load_and_keep(key))
            task.add_done_callback(functools.partial(self._loaded, key))
        return await asyncio.shield(task)

    async def _load_and_keep(self, key: K) -> V:
        asked_at = time.monotonic()
        value = await self._load(key)
        self._kept[key] = (value, asked_at + self._good_for_s)
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return value

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # read here: every caller may have gone
