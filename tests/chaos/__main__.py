"""`python -m tests.chaos`: breaks a deployment of its own under load and checks what is left.

Every fault must be seen to have happened, and every invariant must hold in the history of all that
clients, Postgres and the processes did. The same seed gives the same plan. Exit code 1 means that a
promise was broken, or that a fault could not be made to happen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.acceptance.product import ROOT
from tests.chaos.arena import FaultSkipped
from tests.chaos.catalogue import FAULTS, LEFT_OUT
from tests.chaos.deployment import PRODUCTION_CLOCKS, SHORT_CLOCKS
from tests.chaos.packages import find_redis
from tests.chaos.report import write_report
from tests.chaos.run import Outcome, Plan, run
from tests.chaos.soak import INTERVAL_S, draw
from tests.chaos.soak import PACE as SOAK_PACE
from tests.chaos.soak import SETTINGS as SOAK_SETTINGS

REPORTS = ROOT / "docs" / "reports"
LONG_PACE = 5.0


def main() -> int:
    """Runs the chosen profile once per seed and server; writes one report of all."""
    options = _parse()
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.id:6}{'' if fault.in_short else 'long only  '}{fault.title}")
        for ids, reason in LEFT_OUT.items():
            print(f"{ids}: left out: {reason}")
        return 0
    outcomes = []
    for server in options.redis.split(","):
        try:
            _choose_redis(server)
        except FaultSkipped as error:
            _tell(f"{server}: skipped: {error}")
            continue
        for seed in _seeds(options):
            for plan in _plans(options, seed):
                _tell(f"seed {seed}, {server}: {len(plan.faults)} faults")
                try:
                    outcomes.append(_run_once(plan, options.keep, server))
                except FaultSkipped as error:
                    _tell(f"skipped: {error}")
    if not outcomes:
        return 1
    out = options.out or REPORTS / f"chaos-{datetime.now(UTC).date()}.md"
    write_report(outcomes, out)
    _tell(f"report: {out}")
    return 0 if all(outcome.is_ok for outcome in outcomes) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--profile", choices=("short", "long"), default="short")
    parser.add_argument("--seed", type=int, help="replays a plan; by default a new one each time")
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, each with its own seed")
    parser.add_argument("--only", default="", help="ids of faults, with commas: F01,F19")
    parser.add_argument(
        "--redis", default="valkey", help="valkey (embedded), redis (Debian's), both with a comma"
    )
    parser.add_argument("--sessions", type=int, default=40, help="users at work at once")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="a fault a minute")
    parser.add_argument("--pace", type=float, help="stretches windows and repetitions")
    parser.add_argument("--keep", type=Path, help="keep logs and histories in this folder")
    parser.add_argument("--out", type=Path, help="the report's file")
    parser.add_argument("--list", action="store_true", help="all faults, and what is left out")
    return parser.parse_args()


def _choose_redis(server: str) -> None:
    if server == "redis":
        os.environ["TURNKEEP_VALKEY_BIN"] = str(find_redis())
    else:
        os.environ.pop("TURNKEEP_VALKEY_BIN", None)


def _seeds(options: argparse.Namespace) -> list[int]:
    first = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    return [first + number for number in range(options.seeds)]


def _plans(options: argparse.Namespace, seed: int) -> Iterator[Plan]:
    """What is run with one seed; faults that need a small disk have a run of their own."""
    is_long = options.profile == "long"
    wanted = [name for name in options.only.split(",") if name] or list(FAULTS)
    faults = [FAULTS[name] for name in wanted if is_long or options.only or FAULTS[name].in_short]
    pace, interval_s = (LONG_PACE if is_long else 1.0), 0.0
    if options.soak:
        faults, pace, interval_s = draw(seed, options.soak), SOAK_PACE, INTERVAL_S
    for has_small_disk in (False, True):
        chosen = [fault for fault in faults if fault.needs_small_disk is has_small_disk]
        if chosen:
            yield Plan(
                faults=chosen,
                seed=seed,
                pace=options.pace or pace,
                interval_s=interval_s,
                sessions=options.sessions,
                clocks={
                    **(PRODUCTION_CLOCKS if is_long else SHORT_CLOCKS),
                    **(SOAK_SETTINGS if options.soak else {}),
                },
            )


def _run_once(plan: Plan, keep: Path | None, server: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="turnkeep-chaos-") as name:
        directory = Path(name)
        if keep:
            directory = keep / f"{server}-{plan.seed}-{plan.faults[0].id}"
            directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # Postgres may have to run as somebody else
        outcome = asyncio.run(run(plan, directory, _tell))
    _tell(str(outcome.report))
    return outcome


def _tell(line: str) -> None:
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    print(f"{moment} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
