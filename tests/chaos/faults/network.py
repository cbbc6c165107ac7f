"""F40–F47: links that are slow, sliced, silent, deaf in one direction, cut, or flap.

F46h is a host that is gone: a worker frozen behind links that went silent, so nothing closes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable

from tests.acceptance.product import Api, Process, Worker
from tests.chaos.arena import Arena, Evidence, Fault
from tests.fixtures.proxy import Link
from tests.fixtures.waiting import wait_until


def _links(arena: Arena, *, clients: bool = True) -> list[Link]:
    links = [link for slot in arena.deployment.links() for link in slot.both()]
    return [*links, *(arena.deployment.client_links if clients else [])]


async def _slow(arena: Arena) -> Evidence:
    links = _links(arena)
    before = sum(link.passed for link in links)
    for link in links:
        link.latency_s, link.jitter_s = 0.02, 0.04
    await asyncio.sleep(arena.seconds(8, 30))
    pieces = sum(link.passed for link in links) - before
    for link in links:
        link.latency_s = link.jitter_s = 0.0
    seen = f"{len(links)} links at 20 to 60 ms a piece, {pieces} pieces"
    return Evidence(len(links) if pieces else 0, seen)


async def _narrow(arena: Arena) -> Evidence:
    links = _links(arena)
    for link in links:
        link.bytes_per_s = 20_000
    await asyncio.sleep(arena.seconds(6, 30))
    for link in links:
        link.bytes_per_s = 0
    await arena.workload.until_flowing()
    return Evidence(len(links), f"{len(links)} links at 20 KB/s")


async def _sliced(arena: Arena) -> Evidence:
    links = _links(arena)
    for link in links:
        link.slice_bytes = 7
    await asyncio.sleep(arena.seconds(5, 20))
    for link in links:
        link.slice_bytes = 0
    await arena.workload.until_flowing()
    return Evidence(len(links), f"{len(links)} links in pieces of 7 bytes")


async def _reset(arena: Arena) -> Evidence:
    cut = 0
    for _ in range(arena.times(10, 60)):
        for link in _links(arena):
            if arena.chance.random() < 0.4:
                cut += link.cut()
        await asyncio.sleep(0.5)
    return Evidence(cut, f"{cut} connections reset")


async def _silent(arena: Arena) -> Evidence:
    """Half-open: each dependency of each process goes silent in turn, sockets stay."""
    return await _each_goes(arena, "silent", _silence)


async def _deaf(arena: Arena) -> Evidence:
    """Requests arrive, answers do not."""
    return await _each_goes(arena, "deaf", _deafen)


async def _each_goes(
    arena: Arena, word: str, spell: Callable[[Iterable[Link], float], Awaitable[None]]
) -> Evidence:
    window_s = arena.seconds(4, 30)
    told = []
    for name, links in (
        ("APIs to Redis", [slot.redis for slot in arena.deployment.links(Api)]),
        ("workers to Redis", [slot.redis for slot in arena.deployment.links(Worker)]),
        ("APIs to Postgres", [slot.postgres for slot in arena.deployment.links(Api)]),
        ("workers to Postgres", [slot.postgres for slot in arena.deployment.links(Worker)]),
    ):
        lost = sum(link.lost_bytes for link in links)
        await spell(links, window_s)
        lost = sum(link.lost_bytes for link in links) - lost
        if lost:
            told.append(name)
        await arena.workload.until_flowing()
    return Evidence(len(told) if len(told) == 4 else 0, f"{word} for {window_s:.0f} s: {told}")


async def _silence(links: Iterable[Link], seconds: float) -> None:
    for link in links:
        link.silent = True
    await asyncio.sleep(seconds)
    for link in links:
        link.silent = False
        link.cut()  # what was lost on the way never comes: nobody may go on with such a socket


async def _deafen(links: Iterable[Link], seconds: float) -> None:
    for link in links:
        link.deaf = True
    await asyncio.sleep(seconds)
    for link in links:
        link.deaf = False
        link.cut()


async def _cut_off_one_worker(arena: Arena) -> Evidence:
    """One worker loses Redis, then Postgres; the other has both."""
    lost = 0
    for which in ("redis", "postgres"):
        await arena.workload.until_held()
        worker = arena.chance.choice(arena.deployment.workers)
        link: Link = getattr(arena.deployment.slot(worker), which)
        before = link.lost_bytes
        await _silence([link], arena.seconds(6, 30))
        lost += link.lost_bytes > before
        await arena.workload.until_flowing()
    return Evidence(lost if lost == 2 else 0, "a worker cut off from Redis, another from Postgres")


async def _lose_a_host(arena: Arena) -> Evidence:
    """A worker and its kernel stop in one moment: no FIN, no RST, nobody tells of it."""
    deployment = arena.deployment
    hosts = arena.times(2, 60)
    for _ in range(hosts):
        await arena.workload.until_held()
        victim = arena.chance.choice(deployment.workers)
        slot = deployment.slot(victim)
        for link in slot.both():
            link.silent = True
        arena.workload.note_kill(victim, "host gone", victim.send(signal.SIGSTOP))

        async def holds_nothing(victim: Worker = victim) -> bool:
            return not await arena.workload.holds(victim)

        await wait_until(holds_nothing, "its turns were taken over", 60)
        victim.send(signal.SIGKILL)
        await victim.ended()
        for link in slot.both():
            link.silent = False
        await deployment.be_whole()
    return Evidence(hosts, f"{hosts} workers gone without a word, their sockets left open")


async def _flap(arena: Arena) -> Evidence:
    cut = 0
    kinds: tuple[type[Process], ...] = (Api, Worker)
    for number in range(arena.times(6, 30)):
        slots = list(arena.deployment.links(kinds[number % 2]))
        for slot in slots:
            for link in slot.both():
                link.refuses = True
                cut += link.cut()
        await asyncio.sleep(1)
        for slot in slots:
            for link in slot.both():
                link.refuses = False
        await asyncio.sleep(1)
    return Evidence(cut, f"links up and down every second, {cut} connections lost")


NETWORK_FAULTS = (
    Fault("F40", "every link is slow", "network", _slow),
    Fault("F41", "every link is narrow", "network", _narrow),
    Fault("F42", "links go silent, sockets stay open", "network", _silent, expects_outage=True),
    Fault("F43", "links lose every answer", "network", _deaf, expects_outage=True),
    Fault("F44", "connections are reset", "network", _reset, expects_outage=True),
    Fault("F45", "every link passes 7 bytes at a time", "network", _sliced),
    Fault(
        "F46", "one worker is cut off from Redis, one from Postgres", "network", _cut_off_one_worker
    ),
    Fault("F46h", "a worker's host is gone without a word", "network", _lose_a_host),
    Fault("F47", "links flap", "network", _flap, expects_outage=True),
)
