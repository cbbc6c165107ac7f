"""What was checked with which versions: a line while it runs, and a report when asked for."""

from __future__ import annotations

import inspect
import platform
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.e2e.browser import version_of

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "docs" / "reports"
MAX_PICTURE_BYTES = 200_000
_pictures: list[bytes] = []


def keep_picture(png: bytes) -> None:
    """The last one that is kept goes into the report."""
    assert len(png) <= MAX_PICTURE_BYTES, len(png)
    _pictures.append(png)


@dataclass
class Check:
    """One test, with each line of the SDK."""

    title: str
    took_s: dict[str, float]
    failed: dict[str, str]


class Reporter:
    """A pytest plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.browser = ""
        self.versions: dict[str, dict[str, str]] = {}
        self._checks: dict[str, Check] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        outcome = yield
        name, _, line = item.name.partition("[")
        line = line.rstrip("]")
        function = getattr(item, "function", None)
        title = (inspect.getdoc(function) or name).partition("\n")[0]
        check = self._checks.setdefault(name, Check(title, {}, {}))
        if outcome.failed:
            words = str(call.excinfo.value) if call.excinfo else "failed"
            check.failed[line] = " ".join(words.split())[:200]
        elif outcome.when == "call":
            check.took_s[line] = call.duration
        if outcome.when == "call":
            told = f"FAILED: {check.failed[line]}" if outcome.failed else "ok"
            self._say(f"{line}: {title} … {told}, {call.duration:.1f} s")
        return outcome

    def _say(self, text: str) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(text)

    def pytest_sessionfinish(self) -> None:
        if self.config.getoption("--report") and self._checks:
            self._say(f"written: {self.write().relative_to(ROOT)}")

    def write(self) -> Path:
        now = datetime.now(UTC)
        path = REPORTS / f"e2e-{now:%Y-%m-%d}.md"
        lines = sorted(self.versions)
        failed = sum(bool(check.failed) for check in self._checks.values())
        text = [
            f"# Clients nobody here wrote: {now:%Y-%m-%d}",
            "",
            "`useChat` of the AI SDK with its `DefaultChatTransport`, on a page in a headless",
            "browser that signs in with a password, against one API and two worker processes. Each",
            "check looks at what the page shows and at what the API says afterwards.",
            "",
            f"{len(self._checks)} checks with {len(lines)} lines of the SDK; {failed} failed.",
            "",
            f"| check | {' | '.join(lines)} |",
            f"|---|{'---|' * len(lines)}",
            *(self._row(check, lines) for check in self._checks.values()),
            "",
            *(f"- {line}: {_words(self.versions[line])}" for line in lines),
            f"- {self.browser}, Playwright {version('playwright')}, node {version_of('node')}, "
            f"Python {platform.python_version()}",
            f"- commit: {_git('rev-parse', '--short', 'HEAD')}"
            + (" with uncommitted changes" if _git("status", "--porcelain", "-uno") else ""),
            "- command: `make test-e2e`",
        ]
        if _pictures:
            picture = path.with_suffix(".png")
            picture.write_bytes(_pictures[-1])
            text += ["", f"![A finished conversation]({picture.name})"]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return path

    def _row(self, check: Check, lines: list[str]) -> str:
        cells = [
            f"**{check.failed[line]}**"
            if line in check.failed
            else f"ok, {check.took_s[line]:.1f} s"
            if line in check.took_s
            else "not run"
            for line in lines
        ]
        return f"| {check.title} | {' | '.join(cells)} |"


def of(config: pytest.Config) -> Reporter:
    """The reporter of this run."""
    reporter = config.pluginmanager.get_plugin("e2e-report")
    assert isinstance(reporter, Reporter)
    return reporter


def _words(versions: dict[str, str]) -> str:
    return ", ".join(f"`{name}` {version}" for name, version in versions.items())


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()
