"""Where the bytes of files lie: a folder, or anything that speaks S3. Objects never change.

An object's name is `{prefix}/{tenant}/{sha256}-{random}`: by content, and yet never used twice, so
that collecting an object nobody names cannot take one that somebody has stored meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from shared.errors import ObjectStoreUnavailable
from shared.settings import Settings

PUT_TIMEOUT_S: Final = 120.0
STEP_TIMEOUT_S: Final = 15.0
"""For the first bytes of an answer, and for each piece after them."""
PIECE_BYTES: Final = 131_072
_PART_BYTES: Final = 5 * 1_048_576
"""The smallest part that S3 takes of a large object; a folder takes any."""
_FOLDER_PART_BYTES: Final = 1_048_576
_PAGE: Final = 500
_LEFTOVER: Final = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}#\d+")
"""What `LocalStore` calls an object until all of it is there."""
_KEY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{64}-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a listing tells it."""

    key: str
    stored_at: datetime


class ObjectStore:
    """Nothing is connected or made before it is used. All errors are `ObjectStoreUnavailable`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        url = settings.objects_url
        self.folder: Path | None = None
        """The folder, when it is one."""
        if url is None:
            self.folder = settings.state_dir.absolute() / "objects"
        elif url.startswith("file://"):
            self.folder = Path(unquote(urlsplit(url).path))
        self._store: Any = None

    async def spool_folder(self) -> Path | None:
        """Where files on their way in lie meanwhile: on the store's disk, or on the system's."""
        await self._do(self._open())
        return self.folder

    async def put(self, key: str, file: IO[bytes]) -> None:
        """Stores what `file` holds from its place on; reads it piece by piece."""
        part_bytes = _PART_BYTES if self.folder is None else _FOLDER_PART_BYTES
        with _told_as_ours():
            async with asyncio.timeout(PUT_TIMEOUT_S):
                store = await self._open()
                await obstore.put_async(store, key, file, chunk_size=part_bytes, max_concurrency=1)

    @asynccontextmanager
    async def read(self, key: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The object, piece by piece. It is known to be there when the block begins."""
        result: Any = await self._do(self._get(key))
        yield self._pieces(result.stream(min_chunk_size=PIECE_BYTES))

    async def delete(self, key: str) -> None:
        """Removes an object; one that is gone is fine."""
        with _told_as_ours():
            async with asyncio.timeout(STEP_TIMEOUT_S):
                try:
                    await obstore.delete_async(await self._open(), key)
                except FileNotFoundError:
                    return

    async def list_pages(self) -> AsyncIterator[list[StoredObject]]:
        """All objects that have a name of ours, in pages."""
        store = await self._do(self._open())
        pages = obstore.list(store, chunk_size=_PAGE).__aiter__()
        while True:
            try:
                page = await self._do(pages.__anext__())
            except StopAsyncIteration:
                return
            yield [
                StoredObject(meta["path"], meta["last_modified"])
                for meta in page
                if _KEY.fullmatch(meta["path"])
            ]

    async def remove_leftovers(self, before: datetime) -> int:
        """Removes what processes left that died while they stored something; returns how many.

        A folder's objects are written under another name first, which listings do not tell. (In
        S3 such are parts of uploads, which a rule of the bucket ends.)
        """
        if self.folder is None:
            return 0
        with _told_as_ours():
            return await asyncio.to_thread(_remove_leftovers, self.folder, before.timestamp())

    async def _get(self, key: str) -> Any:
        return await obstore.get_async(await self._open(), key)

    async def _pieces(self, stream: Any) -> AsyncIterator[bytes]:
        pieces = stream.__aiter__()
        while True:
            try:
                yield bytes(await self._do(pieces.__anext__()))
            except StopAsyncIteration:
                return

    async def _do(self, work: Awaitable[Any]) -> Any:
        with _told_as_ours():
            async with asyncio.timeout(STEP_TIMEOUT_S):
                return await work

    async def _open(self) -> Any:
        if self._store is None:
            self._store = await asyncio.to_thread(self._build)
        return self._store

    def _build(self) -> Any:
        if self.folder is not None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalStore(self.folder)
        settings = self._settings
        url = urlsplit(settings.objects_url or "")
        options: dict[str, Any] = {
            "endpoint": settings.objects_endpoint,
            "region": settings.objects_region,
            "access_key_id": _reveal(settings.objects_access_key_id),
            "secret_access_key": _reveal(settings.objects_secret_access_key),
        }
        is_plain = (settings.objects_endpoint or "").startswith("http://")
        return S3Store(
            url.netloc,
            prefix=url.path.strip("/") or None,
            client_options={"allow_http": is_plain},
            **{name: value for name, value in options.items() if value is not None},
        )


def _remove_leftovers(folder: Path, before_s: float) -> int:
    removed = 0
    for path in folder.glob("*/*#*"):
        if _LEFTOVER.fullmatch(path.name) is None:
            continue
        try:
            if path.stat().st_mtime < before_s:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # its store has just come to its end
            continue
    return removed


def object_key(tenant_id: UUID, sha256: bytes) -> str:
    """A fresh name for such content of a tenant."""
    return f"{tenant_id}/{sha256.hex()}-{secrets.token_hex(8)}"


class _told_as_ours:  # noqa: N801 - a context manager, used like a function
    """Every way in which storage can fail, as the one error of ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BaseError | OSError | TimeoutError):
            # Its text may name hosts and folders: it goes to the log, never to a client.
            raise ObjectStoreUnavailable(f"The object store does not serve: {error}") from error


def _reveal(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()
