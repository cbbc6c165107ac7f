"""The committed locks belong to pyproject.toml, and a lock that does not is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT

LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "deploy/lock.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_committed_locks_are_current() -> None:
    assert check(ROOT).returncode == 0


def test_a_changed_requirement_is_found(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("deploy/lock.py", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path / name)
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"arq>=0.28', '"arq>=0.27'))
    answer = check(tmp_path)
    assert answer.returncode == 1
    assert "requirements.lock, requirements-dev.lock does not belong" in answer.stderr


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_hashes_and_without_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    entries = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert entries
    assert all("==" in entry and entry.endswith("\\") for entry in entries)
