"""The bootstrap in a folder of its own, with locks that need no network, and a uv that is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.bootstrap import CHECK, COMMANDS
from tests.deploy.conftest import ROOT

LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-local-llm.lock"]
# Called as `uv pip install … -r LOCK`: fails for a lock that names what cannot be had.
STAND_IN_UV = """#!/bin/sh
for last; do :; done
! grep -q nowhere "$last"
"""
UNOBTAINABLE = "./nowhere-1.0-py3-none-any.whl --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy/bootstrap.py", folder / "deploy")
    for lock in LOCKS:
        (folder / lock).write_text("# nothing\n")
    uv = folder / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(STAND_IN_UV)
    uv.chmod(0o755)
    return folder


def launch(folder: Path, *words: str, local_llm: str = "0") -> subprocess.Popen[str]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "LOCAL_LLM": local_llm, "PATH": path}
    return subprocess.Popen(
        [sys.executable, str(folder / "deploy/bootstrap.py"), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *words: str, local_llm: str = "0") -> tuple[int, str]:
    process = launch(folder, *words, local_llm=local_llm)
    output, _ = process.communicate()
    return process.returncode, output


def test_cold_start_then_warm_start_then_a_changed_lock(folder: Path) -> None:
    exit_code, output = run(folder, "setup")
    assert exit_code == 0, output
    assert "making .venv" in output
    assert "installing requirements-dev.lock" in output
    assert run(folder, "setup") == (0, "")
    (folder / "requirements-dev.lock").write_text("# changed\n")
    exit_code, output = run(folder, "setup")
    assert exit_code == 0
    assert "making" not in output
    assert "installing requirements-dev.lock" in output


def test_a_failed_install_is_tried_again(folder: Path) -> None:
    (folder / "requirements-dev.lock").write_text(UNOBTAINABLE)
    for _ in range(2):
        exit_code, output = run(folder, "setup")
        assert exit_code != 0
        assert "run the same command again" in output
        assert "Traceback" not in output
    (folder / "requirements-dev.lock").write_text("# nothing\n")
    assert run(folder, "setup")[0] == 0


def test_a_local_model_that_cannot_be_had_is_no_obstacle(folder: Path) -> None:
    (folder / "requirements-local-llm.lock").write_text(UNOBTAINABLE)
    (folder / "deploy/run.py").write_text("print('it runs')")
    exit_code, output = run(folder, "run", local_llm="1")
    assert exit_code == 0
    assert "going on without it" in output
    assert run(folder, "run", local_llm="1") == (0, "it runs\n")
    assert "going on without it" in run(folder, "setup", local_llm="1")[1]


def test_pip_serves_where_there_is_no_uv(folder: Path) -> None:
    (folder / "bin/uv").unlink()
    if shutil.which("uv"):
        pytest.skip("this machine has a uv of its own, which goes first")
    exit_code, output = run(folder, "setup")
    assert exit_code == 0, output
    (folder / "requirements-dev.lock").write_text(UNOBTAINABLE)
    assert run(folder, "setup")[0] != 0


def test_a_venv_of_another_python_is_replaced(folder: Path) -> None:
    assert run(folder, "setup")[0] == 0
    (folder / ".venv/made-by").write_text("2.7")
    (folder / ".venv/requirements-dev.lock.installed").write_text("stale")
    exit_code, output = run(folder, "setup")
    assert exit_code == 0
    assert "making .venv" in output


def test_a_folder_that_is_no_venv_is_not_removed(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv/precious").touch()
    exit_code, output = run(folder, "setup")
    assert exit_code != 0
    assert "move it away" in output
    assert (folder / ".venv/precious").exists()


def test_setups_at_the_same_time_wait_for_each_other(folder: Path) -> None:
    started = [launch(folder, "setup") for _ in range(4)]
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert sum("installing" in output for output in outputs) == 1


def test_arguments_reach_the_command(folder: Path) -> None:
    (folder / "deploy/lock.py").write_text("import sys; print(sys.argv[1:])")
    exit_code, output = run(folder, "lock-check", "--extra", "a b")
    assert exit_code == 0
    assert output.endswith("['--check', '--extra', 'a b']\n")


def test_unknown_command_lists_the_known_ones(folder: Path) -> None:
    exit_code, output = run(folder, "fly")
    assert exit_code != 0
    assert "setup | check | run" in output
    assert not (folder / ".venv").exists()


def test_check_and_the_makefile_name_commands_that_exist() -> None:
    assert set(CHECK) <= set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    used = {
        line.split("$(BOOTSTRAP) ")[1].split()[0]
        for line in makefile.splitlines()
        if "@$(B" in line
    }
    assert used <= {*COMMANDS, "setup", "check"}
