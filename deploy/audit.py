"""`make audit`: an SBOM of what requirements.lock pins, and the known advisories about it.

The advisory service may be out of reach, or may know none of the packages because something stands
in between. Nothing is known then, and that is said in one SKIPPED line; it is no failure.

    python -m deploy.audit        exit 1 when a pinned version has a known advisory
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
SBOM = ROOT / "sbom.json"
REQUEST_TIMEOUT_S = 10
AUDIT_TIMEOUT_S = 120


@dataclass(frozen=True)
class Outcome:
    """`advisories` are `package version: id`; with `skipped` set nobody has answered."""

    advisories: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Packages that the service does not know."""
    audited: int = 0
    skipped: str = ""


def main() -> None:
    count = write_sbom()
    print(f"{SBOM.name}: {count} packages of {LOCK}")
    outcome = ask(ROOT / LOCK)
    print(summary_of(outcome))
    if outcome.advisories:
        sys.exit(1)


def write_sbom() -> int:
    """Writes the SBOM (CycloneDX 1.6, JSON) and returns how many packages it has."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", LOCK]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    document = json.loads(answer.stdout)
    for component in document["components"]:
        simplify(component)
    SBOM.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return len(document["components"])


def simplify(component: dict[str, Any]) -> None:
    """Keeps name, version and hashes, and drops where a package might be fetched from."""
    component.pop("description", None)
    sources = component.pop("externalReferences", [])
    component["hashes"] = [digest for source in sources for digest in source.get("hashes", [])]


def ask(lock: Path) -> Outcome:
    """Asks the advisory service that pip-audit asks."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock)]
    command += ["--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--timeout", str(REQUEST_TIMEOUT_S)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=AUDIT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(skipped=f"no answer within {AUDIT_TIMEOUT_S} s")
    return outcome_of(answer.stdout, answer.stderr)


_UNREACHABLE = re.compile(
    r"(Connection|ConnectTimeout|ReadTimeout|Timeout|SSL|Proxy|HTTP)Error|timed out|ConnectTimeout"
    r"|ReadTimeout|[Cc]onnection (refused|reset|aborted)|Temporary failure in name resolution"
)
"""What pip-audit's last line says when nobody answered; anything else is a failure of its own."""


def outcome_of(report: str, complaint: str) -> Outcome:
    """What pip-audit has said; `complaint` is its standard error."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last_line = (complaint.strip().splitlines() or ["pip-audit said nothing"])[-1]
        if not _UNREACHABLE.search(last_line):
            sys.exit(f"pip-audit failed: {last_line}")
        return Outcome(skipped=f"the advisory service cannot be reached ({kind_of(last_line)})")
    unknown = tuple(package["name"] for package in packages if "skip_reason" in package)
    if len(unknown) == len(packages):
        return Outcome(unknown=unknown, skipped="the advisory service knows none of the packages")
    advisories = tuple(
        f"{package['name']} {package['version']}: {advisory['id']}"
        for package in packages
        for advisory in package.get("vulns", ())
    )
    return Outcome(advisories, unknown, len(packages) - len(unknown))


def kind_of(line: str) -> str:
    """The error's class: its text may hold addresses."""
    return line.partition(":")[0].rpartition(".")[2]


def summary_of(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"SKIPPED: {outcome.skipped}; no advisory was looked up"
    lines = [f"ADVISORY: {advisory}" for advisory in outcome.advisories]
    lines.append(f"{outcome.audited} packages audited, {len(outcome.advisories)} advisories")
    if outcome.unknown:
        lines.append("not audited, unknown to the service: " + ", ".join(outcome.unknown))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
