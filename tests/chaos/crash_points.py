"""F05, F14: places in the product's code where a process is made to die, or to stand still.

`python -m tests.chaos.crash_points api|worker NAME` is that process with a trap laid: it runs as
always until it gets to the place, and is gone in that instant; with `--block SECONDS` its event
loop stands still there for so long, once. The product itself knows nothing of this; the traps are
wrapped around its functions from outside.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Before or after one call of `function` (`module:Class.method`), once `needs` is met."""

    process: Literal["api", "worker"]
    when: Literal["before", "after"]
    function: str
    query: str | None = None
    """Only calls whose first argument is the name of this query."""
    needs_result: bool = False
    """Only calls that returned something."""
    stimulus: Literal["load", "flush", "lost worker", "drain", "stubborn", "expiry"] = "load"
    """What must happen for the process to get there."""


_FETCH_ONE = "shared.postgres.pool:Database.fetch_one"
_FETCH_MANY = "shared.postgres.pool:Database.fetch_many"
_TENANT_FETCH_ONE = "shared.postgres.tenant:TenantDatabase.fetch_one"

CRASH_POINTS: dict[str, CrashPoint] = {
    # -- accept
    "accept, before the commit": CrashPoint("api", "before", _FETCH_MANY, "accept_turns"),
    "accept, committed, not dispatched": CrashPoint("api", "after", _FETCH_MANY, "accept_turns"),
    "accept, dispatched, not answered": CrashPoint(
        "api", "after", "shared.service.turns:TurnService._announce"
    ),
    # -- cancel
    "cancel, written, worker not told": CrashPoint(
        "api", "after", _TENANT_FETCH_ONE, "request_cancel", needs_result=True
    ),
    "cancel, forced, not published": CrashPoint(
        "api", "after", _TENANT_FETCH_ONE, "force_cancel", needs_result=True, stimulus="stubborn"
    ),
    "cancel, published, not answered": CrashPoint(
        "api", "after", "shared.service.ends:TurnEnds.publish", stimulus="stubborn"
    ),
    # -- claim
    "claim, handed a turn, not claimed": CrashPoint(
        "worker", "after", "shared.redis.dispatch:IdleConnection.take_one", needs_result=True
    ),
    "claim, before the commit": CrashPoint("worker", "before", _FETCH_MANY, "claim_turns"),
    "claim, committed, not begun": CrashPoint("worker", "after", _FETCH_MANY, "claim_turns"),
    # -- run
    "log, before it is opened": CrashPoint(
        "worker", "before", "shared.redis.event_log:EventLog.send_open"
    ),
    "log, after an append": CrashPoint(
        "worker", "after", "shared.redis.event_log:EventLog.send_append"
    ),
    "lease, renewed": CrashPoint("worker", "after", _FETCH_MANY, "renew_leases"),
    # -- end
    "end, before the commit": CrashPoint("worker", "before", _FETCH_MANY, "end_turns"),
    "end, committed, not published": CrashPoint("worker", "after", _FETCH_MANY, "end_turns"),
    "end, published, slot not free": CrashPoint(
        "worker", "before", "shared.redis.dispatch:Dispatch.send_settle"
    ),
    "end, slot free": CrashPoint("worker", "after", "shared.redis.dispatch:Dispatch.send_settle"),
    # -- others' turns
    "takeover, committed, nobody told": CrashPoint(
        "worker", "after", _FETCH_ONE, "reap_turn", needs_result=True, stimulus="lost worker"
    ),
    "takeover, told": CrashPoint(
        "worker", "after", "worker.reaper:Reaper._tell", stimulus="lost worker"
    ),
    "rebuild, before the generation": CrashPoint(
        "worker", "before", "shared.redis.dispatch:Dispatch.begin_generation", stimulus="flush"
    ),
    "rebuild, after the generation": CrashPoint(
        "worker", "after", "shared.redis.dispatch:Dispatch.begin_generation", stimulus="flush"
    ),
    "expiry, committed, not published": CrashPoint(
        "worker", "after", _FETCH_MANY, "expire_turns", needs_result=True, stimulus="expiry"
    ),
    # -- leave
    "drain, before turns are handed back": CrashPoint(
        "worker", "before", _FETCH_MANY, "hand_back_turns", stimulus="drain"
    ),
    "drain, handed back, not dispatched": CrashPoint(
        "worker", "after", _FETCH_MANY, "hand_back_turns", stimulus="drain"
    ),
}


def find_function(path: str) -> tuple[Any, str, Callable[..., Any]]:
    """Owner, name and function of `module:Class.method`.

    Raises:
        AttributeError: the product has no such function any more.
    """
    module, _, dotted = path.partition(":")
    class_name, _, name = dotted.partition(".")
    owner = getattr(importlib.import_module(module), class_name)
    return owner, name, getattr(owner, name)


def lay_trap(point: CrashPoint, die: Callable[[], None]) -> None:
    """Wraps the point's function, so that it calls `die` there."""
    owner, name, function = find_function(point.function)

    def is_meant(args: tuple[Any, ...]) -> bool:
        return point.query is None or (len(args) > 1 and args[1] == point.query)

    def look_back(args: tuple[Any, ...], result: Any) -> None:
        if point.when == "after" and is_meant(args) and (result or not point.needs_result):
            die()

    def look_ahead(args: tuple[Any, ...]) -> None:
        if point.when == "before" and is_meant(args):
            die()

    @functools.wraps(function)
    async def wait(*args: Any, **kwargs: Any) -> Any:
        look_ahead(args)
        result = await function(*args, **kwargs)
        look_back(args, result)
        return result

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        look_ahead(args)
        result = function(*args, **kwargs)
        look_back(args, result)
        return result

    setattr(owner, name, wait if inspect.iscoroutinefunction(function) else call)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _block_once(seconds: float) -> Callable[[], None]:
    has_blocked = False

    def block() -> None:
        nonlocal has_blocked
        if not has_blocked:
            has_blocked = True
            time.sleep(seconds)

    return block


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crash_points")
    parser.add_argument("process", choices=("api", "worker"))
    parser.add_argument("name", choices=CRASH_POINTS)
    parser.add_argument("--block", type=float, metavar="SECONDS")
    options = parser.parse_args()
    act = _die if options.block is None else _block_once(options.block)
    lay_trap(CRASH_POINTS[options.name], act)
    sys.argv = [options.process]
    runpy.run_module(options.process, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
