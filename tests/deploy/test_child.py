"""Children that die: when they start again, when the run is given up, what is left of them."""

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from deploy import child as child_module
from deploy.bounded_log import BoundedLog
from deploy.child import MAX_DELAY_S, ChildFailedError, Program, RestartPolicy, exited
from tests.deploy.conftest import has_ended, wait_until


def program(tmp_path: Path, script: str, seen: list[bytes] | None = None) -> Program:
    def take(_: str, line: bytes) -> None:
        if seen is not None:
            seen.append(line)

    log = BoundedLog(tmp_path / "child.log")
    return Program("child", [sys.executable, "-c", script], dict(os.environ), log, take)


def test_failures_in_a_row_back_off_and_are_given_up() -> None:
    policy = RestartPolicy()
    delays_s = [policy.delay_after_s(1, lived_s=0.5) for _ in range(5)]
    assert delays_s == [0.1, 0.4, 1.6, MAX_DELAY_S, None]


def test_a_long_life_forgives_earlier_failures() -> None:
    policy = RestartPolicy()
    for _ in range(20):
        assert policy.delay_after_s(1, lived_s=0.5) is not None
        assert policy.delay_after_s(1, lived_s=60) is not None


@pytest.mark.parametrize("exit_code", [0, -signal.SIGKILL, -signal.SIGTERM])
def test_ends_from_outside_are_never_given_up(exit_code: int) -> None:
    policy = RestartPolicy()
    assert {policy.delay_after_s(exit_code, lived_s=0.5) for _ in range(100)} == {0.1}


async def test_a_child_that_fails_ends_the_run_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(child_module, "MAX_DELAY_S", 0.001)
    reports: list[str] = []
    failing = program(tmp_path, "import sys; print('one'); sys.exit('no such setting')")
    failing.spawn()
    with pytest.raises(ChildFailedError) as caught:
        await failing.keep_up(lambda name, level, text: reports.append(text))
    await failing.stop(0)
    assert sorted(caught.value.last_lines) == ["no such setting", "one"]
    assert len(reports) == 4
    assert all("exit code 1" in report for report in reports)


async def test_stop_ends_what_the_child_forked_even_when_it_ignores_signals(
    tmp_path: Path,
) -> None:
    seen: list[bytes] = []
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\n"
        "os.write(1, b'%d\\n' % os.getpid())\n"
        "time.sleep(60)\n"
    )
    stubborn = program(tmp_path, script, seen)
    stubborn.spawn()
    await asyncio.to_thread(wait_until, lambda: len(seen) == 2, "both have told their ids")
    await stubborn.stop(grace_s=0.05)
    for pid in map(int, seen):
        await asyncio.to_thread(wait_until, partial(has_ended, pid), "it has ended")


async def test_output_is_relayed_line_by_line_and_kept_in_the_log(tmp_path: Path) -> None:
    seen: list[bytes] = []
    script = "import sys; sys.stdout.write('a\\n' + 'b' * 200_000 + '\\nc'); sys.exit(0)"
    talking = program(tmp_path, script, seen)
    talking.spawn()
    assert talking.process is not None
    await exited(talking.process)
    await talking.stop(0)
    assert seen[0] == b"a"
    assert seen[-1] == b"c"
    assert b"".join(seen[1:-1]) == b"b" * 200_000
    assert (tmp_path / "child.log").read_bytes() == b"\n".join(seen) + b"\n"


async def test_exit_code_of_a_child_that_is_already_gone(tmp_path: Path) -> None:
    gone = program(tmp_path, "raise SystemExit(7)")
    gone.spawn()
    assert gone.process is not None
    assert gone.process.wait() == 7
    assert await exited(gone.process) == 7
    await gone.stop(0)
