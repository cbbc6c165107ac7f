"""Logs stay bounded, and the last run's log is still there."""

import stat
from pathlib import Path

import pytest

from deploy import bounded_log
from deploy.bounded_log import BoundedLog, cut_log


def test_the_last_runs_log_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    for run in (b"first\n", b"second\n"):
        log = BoundedLog(path)
        log.write(run)
        log.close()
    assert path.read_bytes() == b"second\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"first\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_never_exceeds_its_bound(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "api.log", max_bytes=100)
    for _ in range(50):
        log.write(b"x" * 29 + b"\n")
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"api.log": 60, "api.log.1": 90}


def test_a_log_that_another_process_writes_is_cut_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_log, "MAX_BYTES", 10)
    path = tmp_path / "postgres.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"0123456789+")
        cut_log(path)
        writer.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "postgres.log.1").read_bytes() == b"0123456789+"
