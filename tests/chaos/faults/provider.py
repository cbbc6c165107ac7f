"""F56: the model provider is away. What else it may do is tried one by one in tests/integration.

Turns on it fail with an error of their own; all others go on as if nothing had happened.
"""

from __future__ import annotations

import asyncio

from tests.chaos.arena import Arena, Evidence, Fault


async def _away(arena: Arena) -> Evidence:
    workload, link = arena.workload, arena.provider
    before, ended = await _count_failed(arena), await workload.count_ended()
    link.refuses = True
    link.cut()
    try:
        await asyncio.sleep(arena.seconds(8, 60))
    finally:
        link.refuses = False
    failed = await _count_failed(arena) - before
    ended = await workload.count_ended() - ended
    return Evidence(
        failed if ended > failed else 0,
        f"without its provider {failed} turns failed with model_error, {ended - failed} ended well",
        {"failed": failed},
    )


async def _count_failed(arena: Arena) -> int:
    async with arena.deployment.admin() as admin:
        count = "select count(*) from turns where error_code in ('model_error', 'timeout')"
        return int(await admin.fetchval(count))


PROVIDER_FAULTS = (Fault("F56", "the provider is away", "provider", _away),)
