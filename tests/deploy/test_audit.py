"""An advisory fails the audit; a service that cannot be asked does not, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import audit
from deploy.audit import Outcome, outcome_of, simplify, summary_of


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


GOOD: dict[str, Any] = {"name": "good", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "CVE-2"}]}
UNKNOWN: dict[str, Any] = {"name": "own", "skip_reason": "Dependency not found"}


def test_advisories() -> None:
    outcome = outcome_of(report(GOOD, BAD, UNKNOWN), "Found 2 known vulnerabilities")
    assert outcome == Outcome(("bad 2: PYSEC-1", "bad 2: CVE-2"), ("own",), 2)
    assert "ADVISORY: bad 2: PYSEC-1" in summary_of(outcome)
    assert "not audited, unknown to the service: own" in summary_of(outcome)


def test_none() -> None:
    outcome = outcome_of(report(GOOD), "No known vulnerabilities found")
    assert outcome == Outcome(audited=1)
    assert summary_of(outcome) == "1 packages audited, 0 advisories"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("", "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='x', port=443)"),
        (
            "",
            "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed: ConnectionError",
        ),
        (report(UNKNOWN, UNKNOWN), "No known vulnerabilities found"),
    ],
)
def test_a_service_that_cannot_be_asked(said: str, complaint: str) -> None:
    outcome = outcome_of(said, complaint)
    assert summary_of(outcome).startswith("SKIPPED: ")
    assert "host" not in summary_of(outcome)
    assert not outcome.advisories


def test_another_failure_is_a_failure() -> None:
    with pytest.raises(SystemExit):
        outcome_of("", "usage: pip-audit [-h] [-V]")


def test_the_sbom_names_no_address() -> None:
    component: dict[str, Any] = {
        "name": "a",
        "description": "line 1",
        "externalReferences": [{"url": "x://y", "hashes": [{"alg": "SHA-256", "content": "0"}]}],
    }
    simplify(component)
    assert component == {"name": "a", "hashes": [{"alg": "SHA-256", "content": "0"}]}


def test_the_sbom_has_every_pinned_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "SBOM", tmp_path / "sbom.json")
    lock = (audit.ROOT / audit.LOCK).read_text()
    assert audit.write_sbom() == sum("==" in line for line in lock.splitlines() if line[0] != "#")
    document = json.loads(audit.SBOM.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert all(component["hashes"] for component in document["components"])


@pytest.mark.parametrize(
    "complaint", ["KeyError: 'name'", "ImportError: no", "", "ERROR: bad line"]
)
def test_a_failure_of_its_own_is_none_of_the_service(complaint: str) -> None:
    with pytest.raises(SystemExit):
        outcome_of("", complaint)
