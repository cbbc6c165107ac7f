"""`python -m tests.chaos.against`: the load and the checker on a deployment that you run.

Users submit, follow, come again, poll and cancel through its APIs; your own commands break it
meanwhile; then everything that clients saw, Postgres committed and Redis published is checked
against docs/promises.md. Without --fault nothing is broken: load and checks alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.settings import Settings
from tests.acceptance.product import ROOT
from tests.chaos import history as told
from tests.chaos.arena import Arena, Evidence, Fault, FaultMissed
from tests.chaos.checker import Rules, check
from tests.chaos.deployment import Deployment
from tests.chaos.foreign import ForeignDeployment, Refused, reach
from tests.chaos.history import History, read
from tests.chaos.probes import AppendWatcher, Baseline, find_overdue, find_residue, observe
from tests.chaos.report import write_report
from tests.chaos.run import AWAY, SAMPLE_S, Outcome, Plan, Row, go_through, read_versions
from tests.chaos.workload import Tenant, Workload
from tests.fixtures.chance import seeded
from tests.fixtures.proxy import Link, Upstream

COMMAND_LIMIT_S: Final = 600.0
HEAL_LIMIT_S: Final = 60.0
"""For a command to heal what it broke when the run is interrupted."""
THREADS_PER_SESSION: Final = 4
"""In each tenant: most turns find their thread free, some wait in its line."""
_TAIL_BYTES: Final = 2_000
_NAME: Final = re.compile(r"[\w.-]+")

EPILOG: Final = """
TURNKEEP_KEY_PEPPER, and TURNKEEP_REDIS_PREFIX, TURNKEEP_LEASE_S and TURNKEEP_KEEP_ALIVE_S where
they are not the default, are read from the environment as the deployment has them, and so are
TURNKEEP_DATABASE_URL and TURNKEEP_REDIS_URL without the options. TLS in front of an API is out of
scope: name the port behind it.

  python -m tests.chaos.against --url http://10.0.0.5:8000 --url http://10.0.0.6:8000 \\
    --database-url postgresql://owner@10.0.0.7/turnkeep --redis-url redis://10.0.0.8 \\
    --minutes 10 --every 30 \\
    --fault 'worker=docker compose kill -s KILL worker && docker compose up -d --wait worker' \\
    --fault 'redis=docker compose restart redis'

Exit code 0: every promise held and every fault happened; 1: not so; 2: nothing was tried.
"""
NOT_SEEN: Final = {
    "Processes": "memory, open files, open streams and refused late writes of what others run",
    "TLS": "clients spoke plain HTTP to each API",
    "Models": "every turn ran the scripted model",
}


def main(arguments: list[str] | None = None) -> int:
    """The exit code, as told by --help; 130 after Ctrl-C or SIGTERM."""
    options = _parse(arguments)
    try:
        return asyncio.run(_try_it(options, _settings(options)))
    except Refused as error:
        _tell(f"nothing was tried: {error}")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        _tell("interrupted")
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.against",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--url", action="append", default=[], help="http://host:port of an API; again for each")
    add("--database-url", help="Postgres as the owner of the tables: a trigger is put on them")
    add("--redis-url", help="the deployment's Redis or Valkey")
    add("--minutes", type=float, default=5.0, help="of load, at least (default 5)")
    add("--sessions", type=int, default=20, help="users at work at once (default 20)")
    add("--seed", type=int, help="the same seed draws the same load; by default a new one")
    add(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="NAME=COMMAND",
        help="a shell command that breaks something and heals it before it ends with 0; again for "
        "more, which take turns",
    )
    add("--every", type=float, default=30.0, metavar="S", help="from fault to fault (default 30)")
    add(
        "--api-key",
        action="append",
        default=[],
        help="in place of tenants of our own: keys of two tenants or more that nobody else uses",
    )
    add("--keep", type=Path, metavar="FOLDER", help="the history stays there")
    add("--out", type=Path, metavar="FILE", help="the report (default docs/reports/…)")
    add("--yes-this-is-staging", action="store_true", help="go on though others have turns there")
    add("--clean-up", action="store_true", help="remove what killed runs have left, and end")
    options = parser.parse_args(arguments)
    if not (options.url or options.clean_up):
        parser.error("--url is needed, once for each API")
    if len(options.api_key) == 1:
        parser.error("--api-key is needed at least twice: tenants must not see each other's turns")
    if options.minutes <= 0 or options.every <= 0 or options.sessions < 1:
        parser.error("--minutes, --every and --sessions are above 0")
    return options


def _fault(text: str) -> Fault:
    name, _, command = text.partition("=")
    if not _NAME.fullmatch(name) or not command.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND")
    title = _cell(command if len(command) <= 100 else command[:99] + "…")
    # Nobody knows what a command hurts: the checker excuses most when it was the network.
    return Fault(name, title, "network", functools.partial(_run_command, command))


def _settings(options: argparse.Namespace) -> Settings:
    given = {
        name: value
        for name in ("database_url", "redis_url")
        if (value := getattr(options, name)) is not None
    }
    if options.api_key or options.clean_up:
        given["key_pepper"] = "hashes nothing here"
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise Refused(
            "; ".join(f"TURNKEEP_{str(item['loc'][0]).upper()}: {item['msg']}" for item in wrong)
        ) from None


async def _try_it(options: argparse.Namespace, settings: Settings) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    run = "" if options.clean_up else secrets.token_hex(4)
    async with reach(options.url, settings, run) as foreign:
        if options.clean_up:
            return await _leave(foreign)
        await foreign.require_calm(is_staging=options.yes_this_is_staging)
        with contextlib.ExitStack() as stack:
            folder = options.keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="turnkeep-chaos-"))
            )
            folder.mkdir(parents=True, exist_ok=True)
            left = 1
            try:
                outcome = await _run(options, foreign, folder / f"history-{run}.jsonl")
            finally:
                left = await _leave(foreign)
    _tell(str(outcome.report))
    setting = (
        f"Made by `python -m tests.chaos.against`: {len(options.url)} APIs of a deployment that "
        "somebody else runs, broken by commands of theirs"
    )
    name = f"chaos-against-{datetime.now(UTC).date()}.md"
    out = options.out or ROOT / "docs" / "reports" / name
    write_report([outcome], out, setting=setting, left_out=NOT_SEEN)
    _tell(f"report: {out}")
    return 0 if outcome.is_ok and not left else 1


async def _leave(foreign: ForeignDeployment) -> int:
    """Removes what was added; 1 when that could not be done."""
    _tell("removing what was added; a second Ctrl-C would leave it there, until --clean-up")
    stays = await foreign.clean_up()
    for what in stays:
        _tell(f"stays: {what}")
    return 1 if any(what.startswith("everything") for what in stays) else 0


# -- the run


async def _run(options: argparse.Namespace, foreign: ForeignDeployment, path: Path) -> Outcome:
    began = time.monotonic()
    plan = _plan(options, foreign.settings)
    if not plan.faults:
        _tell("without --fault nothing is broken: load and checks alone")
    tenants = await foreign.make_tenants(options.api_key, THREADS_PER_SESSION * plan.sessions)
    if len({tenant.id for tenant in tenants}) < len(tenants):
        raise Refused("the API keys must be of different tenants")
    _tell(f"seed {plan.seed}: {plan.sessions} users of {len(tenants)} tenants")
    rows: list[Row] = []
    with History(path) as history:
        workload = Workload(
            foreign, history, tenants, seed=plan.seed, sessions=plan.sessions, label=foreign.run
        )
        # Faults here touch nothing but a shell: no deployment of our own, and a provider nowhere.
        nowhere = Link(Upstream(None))
        arena = Arena(cast(Deployment, foreign), workload, nowhere, seeded(plan.seed))
        await _watch(plan, arena, foreign, tenants, rows)
        versions = await read_versions(foreign)
    recorded = read(path)
    events = _only_ours(recorded.events)
    settings = foreign.settings
    rules = Rules(settle_s=60.0, lease_s=settings.lease_s, keep_alive_s=settings.keep_alive_s)
    report = check(events, rules, torn=recorded.torn)
    lasted_s = time.monotonic() - began
    return Outcome(plan, rows, workload.kills, report, events, lasted_s, versions)


def _plan(options: argparse.Namespace, settings: Settings) -> Plan:
    """The faults in turn, so often that the load lasts as long as it was asked to."""
    seconds = options.minutes * 60
    clean_s = min(5.0, seconds / 6) if options.fault else seconds / 2
    hurt_s = seconds - 2 * clean_s
    times = max(len(options.fault), int(hurt_s / options.every))
    return Plan(
        faults=list(itertools.islice(itertools.cycle(options.fault), times)),
        seed=secrets.randbelow(1_000_000) if options.seed is None else options.seed,
        sessions=options.sessions,
        provider_share=0.0,
        interval_s=min(options.every, hurt_s / max(1, times)),
        clean_s=clean_s,
        clocks={"TURNKEEP_LEASE_S": f"{settings.lease_s:g}"},
    )


async def _watch(
    plan: Plan, arena: Arena, foreign: ForeignDeployment, tenants: list[Tenant], rows: list[Row]
) -> None:
    """The load and the faults, with everything that looks on; users who gave up are a row."""
    history = arena.workload.history
    threads = [UUID(thread) for tenant in tenants for thread in tenant.threads]
    ids = [UUID(tenant.id) for tenant in tenants]
    before = {residue.what: residue for residue in await _find_residue(foreign)}
    async with (
        observe(foreign.database_url, history, tenants=ids, threads=threads),
        AppendWatcher(foreign.redis_url, history, prefix=foreign.settings.redis_prefix) as watcher,
        _watching_leases(foreign, history),
    ):
        await _require_flow(arena.workload, watcher)
        began = told.now()
        try:
            await go_through(plan, arena, _tell, rows)
        except* (AssertionError, pytest.fail.Exception) as group:
            problem = _cell("; ".join(f"{type(e).__name__}: {e}" for e in _leaves(group)))
            _tell(f"the load broke off: {problem}")
            load = Fault("load", "users gave up, or were refused", "api", _no_command)
            rows.append(Row(load, began, told.now(), 0.0, None, problem))
        await foreign.until_quiet(threads)
        for residue in await _find_residue(foreign):
            history.append(replace(residue, allowed=before[residue.what].found))


async def _require_flow(workload: Workload, watcher: AppendWatcher) -> None:
    """A turn goes through each API, and is heard of on Redis.

    Raises:
        Refused: not so, with nothing broken yet.
    """
    for _ in range(5):
        try:
            await workload.until_flowing(20)
        except pytest.fail.Exception as error:
            raise Refused(f"no scripted turn goes through each API: {error}") from None
        if watcher.noted:
            return
        await asyncio.sleep(0.2)
    raise Refused("that Redis does not carry its events: another one, or TURNKEEP_REDIS_PREFIX")


@asynccontextmanager
async def _watching_leases(foreign: ForeignDeployment, history: History) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            with contextlib.suppress(*AWAY):
                async with foreign.admin() as admin, asyncio.timeout(SAMPLE_S):
                    history.extend(await find_overdue(admin))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _find_residue(foreign: ForeignDeployment) -> list[told.Residue]:
    async with foreign.admin() as admin, foreign.redis() as redis:
        prefix = foreign.settings.redis_prefix
        return await find_residue(admin, redis, {}, Baseline({}), redis_prefix=prefix)


def _only_ours(events: Iterable[told.Event]) -> list[told.Event]:
    """Without what others' turns did meanwhile."""
    events = list(events)
    ours = {e.turn for e in events if isinstance(e, told.Accept | told.FinalState)}
    others = told.Append, told.Overdue, told.Transition
    return [e for e in events if not isinstance(e, others) or e.turn in ours]


# -- faults


async def _run_command(command: str, _: Arena) -> Evidence:
    """Runs it in a session of its own: Ctrl-C is not for a command that has yet to heal.

    Raises:
        FaultMissed: it failed, or did not end in time.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                code = await process.wait()
        except TimeoutError:
            code = await _kill(process)
        except asyncio.CancelledError:
            await _let_heal(process, command)
            raise
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _TAIL_BYTES))
        tail = output.read().decode(errors="replace")
    lasted_s = time.monotonic() - began
    if code:
        raise FaultMissed(_cell(f"exit code {code} after {lasted_s:.1f} s: {tail}"))
    return Evidence(1, f"exit code 0 after {lasted_s:.1f} s")


async def _let_heal(process: asyncio.subprocess.Process, command: str) -> None:
    if process.returncode is None:
        _tell(f"interrupted; waiting until this has healed what it broke: {command}")
    try:
        async with asyncio.timeout(HEAL_LIMIT_S):
            await process.wait()
    except TimeoutError:
        _tell("it does not end: look whether it left something broken")
        await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


async def _no_command(_: Arena) -> Evidence:
    raise FaultMissed


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _cell(text: str) -> str:
    """Of a Markdown table: one line, no bars."""
    return " ".join(text.split()).replace("|", "\\|")


def _tell(line: str) -> None:
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    print(f"{moment} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
