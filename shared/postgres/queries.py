"""Loads the named queries of `sql/*.sql`. SQL lives there and nowhere else.

A query is a block `-- name: verb_noun :one|many|exec engine|tenant`, a line of purpose, then the
statement. The last word of its head is whom it runs as: *engine* statements work for many tenants
and run as the login, which sees all; *tenant* statements serve one principal and run as a role that
sees one tenant's rows only (`shared/postgres/tenant.py`). No statement runs as both: a plan belongs
to a role, and a connection that changes between the two plans anew each time.

Placeholders are filled from the state machine, so that no SQL file lists statuses by hand. A query
names a status by the transition that leaves it or leads there: `{sources:claim}` is pending, what a
claim may leave; `{target:claim}` is running, `{target:park}` is parked. `{active}` and `{terminal}`
are all that are not over, and all that are. Why many conditions read `(…) is true`: see
`sql/turns.sql`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from shared.automations.status import RunStatus, StepStatus
from shared.turn.ingestion import RETRIED_REASONS, IngestionStatus
from shared.turn.state import ACTIVE, TERMINAL, Transition, TurnStatus, sources, target

_FOLDER: Final = Path(__file__).with_name("sql")
_HEADER: Final = re.compile(
    r"^-- name: (?P<name>[a-z_]+) :(?P<kind>one|many|exec)(?: (?P<role>engine|tenant))?$",
    re.MULTILINE,
)
_GUARD: Final = re.compile(
    r"\{(?P<what>sources|target|active|terminal|ingestion|retried|run|step)(?::(?P<why>[a-z_]+))?\}"
)

Role = Literal["engine", "tenant"]


@dataclass(frozen=True, slots=True)
class Query:
    """One prepared statement's text. `purpose` is the comment under its name."""

    name: str
    kind: Literal["one", "many", "exec"]
    role: Role
    purpose: str
    sql: str
    file: str


@cache
def load_queries() -> dict[str, Query]:
    """All named queries by name.

    Raises:
        ValueError: two queries share a name, or one lacks its role or its line of purpose.
    """
    found: dict[str, Query] = {}
    for path in sorted(_FOLDER.glob("*.sql")):
        for query in _parse(path):
            if query.name in found:
                raise ValueError(f"query {query.name} stands twice: {path.name}")
            found[query.name] = query
    return found


def sql(name: str, role: Role) -> str:
    """Text of the query `name`, for who runs as `role`.

    Raises:
        KeyError: no such query.
        ValueError: it runs as the other role.
    """
    query = load_queries()[name]
    if query.role != role:
        raise ValueError(f"{name} is a statement of the {query.role}, not of the {role}")
    return query.sql


def _parse(path: Path) -> list[Query]:
    text = path.read_text(encoding="utf-8")
    heads = list(_HEADER.finditer(text))
    queries = []
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        body = text[head.end() : following.start() if following else len(text)].strip()
        purpose = [line[3:] for line in body.splitlines() if line.startswith("-- ")]
        if not body.startswith("-- "):
            raise ValueError(f"query {head['name']} in {path.name} lacks a line of purpose")
        if head["role"] is None:
            raise ValueError(f"query {head['name']} in {path.name} says neither engine nor tenant")
        queries.append(
            Query(
                name=head["name"],
                kind=head["kind"],  # type: ignore[arg-type]  # the pattern allows these words only
                role=head["role"],  # type: ignore[arg-type]  # the same
                purpose=" ".join(purpose),
                sql=_GUARD.sub(_fill_guard, body),
                file=path.name,
            )
        )
    return queries


def _fill_guard(match: re.Match[str]) -> str:
    what, why = match["what"], match["why"]
    if what == "ingestion":
        return f"'{IngestionStatus(why)}'::ingestion_status"
    if what == "retried":
        return ", ".join(f"'{reason}'" for reason in RETRIED_REASONS)
    if what == "run":
        return f"'{RunStatus(why)}'::automation_run_status"
    if what == "step":
        return f"'{StepStatus(why)}'::automation_step_status"
    if what == "active":
        return _status_list(sorted(ACTIVE))
    if what == "terminal":
        return _status_list(sorted(TERMINAL))
    if what == "sources":
        return _status_list(sources(Transition(why)))
    targets = {target(source, Transition(why)) for source in sources(Transition(why))}
    (only,) = targets
    return f"'{only}'::turn_status"


def _status_list(statuses: list[TurnStatus]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)
