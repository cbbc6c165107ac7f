"""Get Turn for those who poll: a version from Postgres, a body that was rendered before.

Every answer is as fresh as any: the version is read after the request came, many pollers' in one
query. Only the rendering is kept, under the version it shows. A request with anything unusual about
it is left to `api.chat.turns.get_turn`, which answers with the same bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from starlette.types import Scope, Send

from api.chat.schemas import turn_to_json
from api.conditional import entity_tag, turn_headers
from shared.errors import PostgresUnavailable, TurnNotFound
from shared.postgres.group_read import GroupRead
from shared.service.api_keys import ApiKeys
from shared.service.turns import TurnService
from shared.turn.model import Principal

KEPT_TURNS: Final = 4096
KEPT_BYTES: Final = 16 * 1024 * 1024
_UUID_CHARS: Final = frozenset(b"0123456789abcdef-")
_UNUSUAL: Final = frozenset({b"prefer", b"x-api-key"})
"""With one of these headers a request is not for us."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A turn's response at one version."""

    principal: Principal
    version: tuple[int, str, datetime]
    tag: bytes
    head: list[tuple[bytes, bytes]]
    body: bytes


class FastGetTurn:
    """See the module. Callable as `api.hot_routes.FastAnswer`."""

    def __init__(self, api_keys: ApiKeys, reads: GroupRead, turns: TurnService) -> None:
        self._api_keys = api_keys
        self._reads = reads
        self._turns = turns
        self._rendered: OrderedDict[str, _Rendered] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, text: str, send: Send) -> int | None:
        """Answers 200 or 304; None for everything else."""
        asked = self._read(scope["headers"])
        if asked is None or not _UUID_CHARS.issuperset(text.encode()):
            return None
        principal, wanted_tag = asked
        rendered = await self._render(principal, text)
        if rendered is None or (wanted_tag and wanted_tag != rendered.tag):
            return None
        if wanted_tag:
            head = [pair for pair in rendered.head if not pair[0].startswith(b"content-")]
            await send({"type": "http.response.start", "status": 304, "headers": head})
            await send({"type": "http.response.body", "body": b""})
            return 304
        await send({"type": "http.response.start", "status": 200, "headers": rendered.head})
        await send({"type": "http.response.body", "body": rendered.body})
        return 200

    def _read(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Principal, bytes] | None:
        """Who asks, and the version they have; None when there is anything unusual."""
        secret = wanted_tag = b""
        for name, value in headers:
            if name in _UNUSUAL:
                return None
            if name == b"authorization":
                if secret:
                    return None
                secret = value
            elif name == b"if-none-match":
                if wanted_tag:
                    return None
                wanted_tag = value
        principal = self._api_keys.find_known(secret)
        return None if principal is None else (principal, wanted_tag)

    async def _render(self, principal: Principal, text: str) -> _Rendered | None:
        """The turn's present rendering; None when the ordinary way must tell what is wrong."""
        try:
            turn_id = UUID(text)
            row = await self._reads.get(turn_id, principal.tenant_id, principal.user_id)
        except (ValueError, PostgresUnavailable):
            return None
        if row is None:
            return None
        version = (row["attempt"], row["status"], row["updated_at"])
        known = self._rendered.get(text)
        if known is not None and known.version == version and known.principal == principal:
            self._rendered.move_to_end(text)
            return known
        return await self._render_anew(principal, text, turn_id)

    async def _render_anew(
        self, principal: Principal, text: str, turn_id: UUID
    ) -> _Rendered | None:
        try:
            turn = await self._turns.get(principal, turn_id)
        except (TurnNotFound, PostgresUnavailable):
            return None
        body = turn_to_json(turn)
        head = [(name.encode(), value.encode()) for name, value in turn_headers(turn, None).items()]
        head += [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]
        rendered = _Rendered(
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
