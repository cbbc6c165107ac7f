"""Get Turn for those who poll: a version from Postgres, a body that was rendered before.

Every answer is as fresh as any: the version is read after the request came, many pollers' in one
query. Only the rendering is kept, under the version it shows. A request with anything unusual about
it is left to `api.chat.turns.get_turn`, which answers with the same bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from starlette.types import Scope, Send

from api.admission import CREDENTIAL
from api.chat.turn_schemas import turn_to_json
from api.conditional import entity_tag, turn_headers
from shared.errors import PostgresUnavailable, TurnNotFound
from shared.postgres.group_read import GroupRead
from shared.service.credentials import Credentials
from shared.service.turns import TurnService
from shared.turn.model import Principal

log = structlog.get_logger(__name__)

KEPT_TURNS: Final = 4096
KEPT_BYTES: Final = 16 * 1024 * 1024
_PLAIN_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNUSUAL: Final = frozenset({b"prefer", b"x-api-key"})
"""With one of these headers a request is not for us."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A turn's response at one version."""

    turn_id: UUID
    principal: Principal
    version: tuple[int, str, datetime]
    tag: bytes
    head: list[tuple[bytes, bytes]]
    body: bytes


def _plain_uuid(text: str) -> UUID | None:
    """The id that is written in the usual way; None for everything else."""
    return UUID(text) if _PLAIN_UUID.fullmatch(text) else None


class FastGetTurn:
    """See the module. Callable as `api.hot_routes.FastAnswer`."""

    def __init__(self, credentials: Credentials, reads: GroupRead, turns: TurnService) -> None:
        self._credentials = credentials
        self._reads = reads
        self._turns = turns
        self._rendered: OrderedDict[str, _Rendered] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, text: str, send: Send) -> int | None:
        """Answers 200 or 304; None for everything else."""
        asked = self._read(scope["headers"])
        known = self._rendered.get(text)
        turn_id = _plain_uuid(text) if known is None else known.turn_id
        if asked is None or turn_id is None:
            return None
        principal, wanted_tag = asked
        scope[CREDENTIAL] = principal.counted_as
        try:
            row = await self._reads.get(turn_id, principal.tenant_id, principal.user_id)
            if row is None:
                return None
            version = (row["attempt"], row["status"], row["updated_at"])
            if known is None or known.version != version or known.principal != principal:
                known = await self._render(principal, text, turn_id)
        except (TurnNotFound, PostgresUnavailable):
            return None
        except Exception:  # the ordinary way answers, in our dialect
            log.exception("http.fast_answer_failed")
            return None
        if wanted_tag:
            if wanted_tag != known.tag:
                return None
            head = [pair for pair in known.head if not pair[0].startswith(b"content-")]
            await send({"type": "http.response.start", "status": 304, "headers": head})
            await send({"type": "http.response.body", "body": b""})
            return 304
        await send({"type": "http.response.start", "status": 200, "headers": known.head})
        await send({"type": "http.response.body", "body": known.body})
        return 200

    def _read(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Principal, bytes] | None:
        """Who asks, and the version they have; None when there is anything unusual."""
        secret: bytes | None = None
        wanted_tag = b""
        for name, value in headers:
            if name in _UNUSUAL:
                return None
            if name == b"authorization":
                if secret is not None:
                    return None
                secret = value
            elif name == b"if-none-match":
                if wanted_tag:
                    return None
                wanted_tag = value
        principal = None if secret is None else self._credentials.find_known(secret)
        return None if principal is None else (principal, wanted_tag)

    async def _render(self, principal: Principal, text: str, turn_id: UUID) -> _Rendered:
        turn = await self._turns.get(principal, turn_id)
        body = turn_to_json(turn)
        head = [(name.encode(), value.encode()) for name, value in turn_headers(turn, None).items()]
        head += [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]
        rendered = _Rendered(
            turn_id,
            principal,
            (turn.attempt, turn.status, turn.updated_at),
            entity_tag(turn).encode(),
            head,
            body,
        )
        self._keep(text, rendered)
        return rendered

    def _keep(self, text: str, rendered: _Rendered) -> None:
        before = self._rendered.pop(text, None)
        if before is not None:
            self._bytes -= len(before.body)
        self._rendered[text] = rendered
        self._bytes += len(rendered.body)
        while len(self._rendered) > KEPT_TURNS or self._bytes > KEPT_BYTES:
            _, oldest = self._rendered.popitem(last=False)
            self._bytes -= len(oldest.body)
