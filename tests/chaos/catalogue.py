"""Every fault of the kit by its id, and those that it leaves out, with the reason."""

from __future__ import annotations

from typing import Final

from tests.chaos.arena import Fault
from tests.chaos.faults.clients import CLIENT_FAULTS
from tests.chaos.faults.clocks import CLOCK_FAULTS
from tests.chaos.faults.crashes import CRASH_FAULTS
from tests.chaos.faults.network import NETWORK_FAULTS
from tests.chaos.faults.postgres import POSTGRES_FAULTS
from tests.chaos.faults.process import PROCESS_FAULTS
from tests.chaos.faults.provider import PROVIDER_FAULTS
from tests.chaos.faults.redis import REDIS_FAULTS

FAULTS: Final[dict[str, Fault]] = {
    fault.id: fault
    for fault in (
        *PROCESS_FAULTS,
        *CRASH_FAULTS,
        *REDIS_FAULTS,
        *POSTGRES_FAULTS,
        *NETWORK_FAULTS,
        *CLIENT_FAULTS,
        *CLOCK_FAULTS,
        *PROVIDER_FAULTS,
    )
}

LEFT_OUT: Final[dict[str, str]] = {
    "F11": "a lost or doubled reconciler: every worker is one, so F01 and F02 lose them, and two "
    "are always at work",
    "F12": "the kernel's answer to a lack of memory is SIGKILL: F01",
    "F16, F17": "Redis with an append-only file: the product asks for none and verifies that a "
    "restart or a rollback is noticed; F18 restores old keys after a restart, which is the harder "
    "case of the same",
    "F20": "FLUSHALL during a burst on one key: part of F19, whose load always has such keys",
    "F26": "a promoted replica with a lost tail looks like F18: old keys under a new run id",
    "F32": "a fast restart of Postgres: F31 is the immediate one",
    "F48, F49": "readers that do not read: measured by `python -m tests.chaos.overload`",
    "F52": "the cancellation storm: `python -m tests.chaos.storm`",
}
