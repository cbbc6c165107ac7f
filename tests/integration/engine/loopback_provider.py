"""A tiny OpenAI-compatible server on loopback that misbehaves on demand and notices a hang-up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass
class LoopbackProvider:
    """`behaviour` is stream, stall, reset, mute or a status; `requests` are the bodies received."""

    behaviour: str = "stream"
    url: str = ""
    connections: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._writers[task] = writer
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            del self._writers[task]
            writer.close()

    async def aclose(self) -> None:
        for writer in self._writers.values():
            writer.transport.abort()
        while self._writers:
            await asyncio.wait(list(self._writers))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can serve another request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        self.keys.append(headers["authorization"])
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append(json.loads(body))
        if self.behaviour.isdigit():
            _write_error(writer, self.behaviour)
            return True
        if self.behaviour == "mute":
            await self._wait_for_hang_up(reader)
            return False
        writer.write(_STREAM)
        for text in ("Hel", "lo ", "you"):
            _write_chunk(writer, {"choices": [_choice({"content": text})]})
        await writer.drain()
        if self.behaviour == "stall":
            await self._wait_for_hang_up(reader)
            return False
        if self.behaviour == "reset":
            await asyncio.sleep(0.05)
            writer.transport.abort()
            return False
        _write_chunk(writer, {"choices": [_choice({}, "stop")]})
        usage = {
            "prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4},
        }  # fmt: skip
        _write_chunk(writer, {"choices": [], "usage": usage})
        _write(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _wait_for_hang_up(self, reader: asyncio.StreamReader) -> None:
        await reader.read(1)
        self.hung_up.set()


@asynccontextmanager
async def loopback_provider() -> AsyncIterator[LoopbackProvider]:
    provider = LoopbackProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield provider
    finally:
        server.close()
        await provider.aclose()
        await server.wait_closed()


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _write_chunk(writer: asyncio.StreamWriter, more: dict[str, Any]) -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", **more}
    _write(writer, b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _write_error(writer: asyncio.StreamWriter, status: str) -> None:
    error = {"message": "secret sk-123 at http://inside", "type": "x", "code": None}
    if status == "413":
        status, error["code"] = "400", "context_length_exceeded"
    body = json.dumps({"error": error}).encode()
    head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\nretry-after: 30\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
