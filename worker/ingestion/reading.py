"""Runs the program that reads a file's text, and makes sure that it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import orjson

from shared.settings import Settings

_PROGRAM: Final = Path(__file__).with_name("read_text.py")
_HEAD_BYTES: Final = 1024
_PIECE_BYTES: Final = 65_536


class ReadingFailed(Exception):
    """No text came of it. `is_final`: it would not the next time either."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a file, or its beginning."""

    text: str
    is_cut: bool


async def read_text(file: IO[bytes], reader: str, settings: Settings) -> Reading:
    """The text of `file`, a file on disk, from its place on.

    Raises:
        ReadingFailed: for `encrypted`, `broken`, `too_large`, `memory`, `cpu`, `timeout`, `killed`.
        OSError: no process could be started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(_PROGRAM),
        reader,
        str(settings.extracted_text_max_bytes),
        str(settings.ingestion_memory_bytes),
        str(settings.ingestion_cpu_s),
        str(os.getpid()),
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        start_new_session=True,  # a terminal's Ctrl-C is for us alone
    )
    try:
        async with asyncio.timeout(settings.ingestion_timeout_s):
            output = await _read_output(process, settings.extracted_text_max_bytes)
            code = await process.wait()
    except TimeoutError:
        raise ReadingFailed("timeout", is_final=False) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code == -signal.SIGXCPU:
        raise ReadingFailed("cpu", is_final=True)
    if code != 0:
        raise ReadingFailed("killed", is_final=False)
    return _parse(output)


async def _read_output(process: asyncio.subprocess.Process, max_text_bytes: int) -> bytes:
    output = bytearray()
    stdout = process.stdout
    while stdout is not None and (piece := await stdout.read(_PIECE_BYTES)):
        output += piece
        if len(output) > max_text_bytes + _HEAD_BYTES:
            raise ReadingFailed("broken", is_final=True)
    return bytes(output)


def _parse(output: bytes) -> Reading:
    head, newline, text = output.partition(b"\n")
    try:
        told = orjson.loads(head) if newline else None
    except orjson.JSONDecodeError:
        told = None
    match told:
        case {"reason": None, "isCut": bool(is_cut)}:
            return Reading(text.decode("utf-8", "replace"), is_cut)
        case {"reason": str(reason)}:
            raise ReadingFailed(reason, is_final=True)
        case _:
            raise ReadingFailed("broken", is_final=True)
