"""What the pages of the surfaces show, pasted into a shell beside the running product."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.ag_ui import runs as ag_ui
from api.app import SURFACES
from api.openapi import Operation
from tests.deploy.conftest import ROOT, Product

PAGES = sorted((ROOT / "docs/surfaces").glob("*.md"))
README = ROOT / "README.md"
SHOWN = (*ag_ui.OPERATIONS, *(operation for one in SURFACES for operation in one.operations))
"""All that needs a `curl`."""
PRINTED_URL = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TELLING_CURL = """#!/bin/sh
# curl, which also notes what it asked for and which status came back
exec {curl} -w '%{{stderr}}\\n%{{http_code}} %{{method}} %{{url_effective}}\\n' "$@" 2>> {notes}
"""


@dataclass(frozen=True)
class Note:
    """One request that a page made."""

    status: int
    method: str
    url: str

    def is_of(self, operation: Operation) -> bool:
        path = re.sub(r"\\{\w+\\}", "[^/?]+", re.escape(operation.path))
        wanted = rf"http://[^/]+{path}(\?.*)?"
        return self.method == operation.method and re.fullmatch(wanted, self.url) is not None


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    product = Product(tmp_path, [], is_real=True)
    product.state_dir = product.folder / ".turnkeep"
    product.extra = {"TURNKEEP_WORKERS": "1"}
    shutil.copy(README, product.folder)
    product.start()
    yield product
    product.end()


def paste(page: Path, product: Product) -> list[Note]:
    """Runs the page's shell blocks, one shell for all of them; what its `curl`s asked for."""
    script = "".join(BLOCK.findall(page.read_text()))
    folder = product.folder / page.stem
    folder.mkdir()
    asked = folder / "notes"
    curl = folder / "curl"
    curl.write_text(TELLING_CURL.format(curl=shutil.which("curl"), notes=asked))
    curl.chmod(0o755)
    script = script.replace(PRINTED_URL, product.credentials["baseUrl"])
    path = f"{folder}:{product.environment['PATH']}"
    ran = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=product.folder,
        env=product.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=30,
    )
    lines = re.findall(r"^(\d{3}) ([A-Z]+) (http.*)$", asked.read_text(), re.MULTILINE)
    told = [Note(int(status), method, url) for status, method, url in lines]
    refused = [note for note in told if not 200 <= note.status < 300]
    assert not refused, f"{page}: {refused}\n{ran.stdout[-2000:]}"
    assert ran.returncode == 0, f"{page}: {ran.stderr}"
    assert len(told) == script.count("curl ")
    return told


@pytest.mark.timeout(90)
def test_every_operation_is_shown_and_works_when_pasted(product: Product) -> None:
    told = [note for page in (README, *PAGES) for note in paste(page, product)]
    missing = [
        f"{operation.method} {operation.path}"
        for operation in SHOWN
        if not any(note.is_of(operation) for note in told)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_stands_where_it_is_not_tried(page: Path) -> None:
    assert "curl " not in BLOCK.sub("", page.read_text()).replace("`curl`", "")
