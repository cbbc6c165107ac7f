"""An OpenAI-compatible Chat Completions server on loopback that misbehaves on demand.

    python -m tests.chaos.fake_provider --port 9100 --seed 7 [--log calls.jsonl] [--schedule mixed]

What a call does is asked for in the prompt (`Directive.prompt()`) or comes from a seeded schedule;
what it says is `provider_text.answer(seed, turn, …)`.

The log has two JSON lines per call: `{"event": "start", "at_ns", "id", "turn", "canary", "call",
"do"}` and, with the same fields, `{"event": "end", …, "how", "deltas"}`. `at_ns` is
CLOCK_MONOTONIC, which all processes of a host share. `how` is `done`, `hung_up` (by the provider,
as asked for) or `client_closed`; then `at_ns` is when the client's FIN or RST arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.provider_text import MIXED, Behaviour, Directive, Schedule, Word, word

MAX_BODY_BYTES = 8 * 1024 * 1024
_WRITES_BETWEEN_DRAINS = 64
_EVENT_STREAM = {"content-type": "text/event-stream"}
_JSON = {"content-type": "application/json"}
SECRET = "secret sk-123 at http://inside"
"""Part of every error body: nothing of it may reach a turn's owner."""
USAGE = {
    "prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
}  # fmt: skip
HOSTILE = "a\0b\ud800c\u2028\r\ndata: forged\n\n"
"""A delta of `hostile_text`; U+FFFD is to stand for its second and its fourth character."""


class ClientClosedError(ConnectionError):
    """The client hung up first."""


class HangUp(Exception):
    """The provider ends the connection now, without another byte."""


@dataclass
class Call:
    """One request and how it went."""

    id: int
    turn: str
    canary: str
    number: int
    behaviour: Behaviour
    body: dict[str, Any]
    key: str
    """The credential as sent: `Bearer …`."""
    started_at: float
    """Seconds of CLOCK_MONOTONIC, as all times here."""
    ended_at: float | None = None
    how: str = ""
    deltas: int = 0

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    def line(self, event: str) -> str:
        at = self.started_at if event == "start" else self.ended_at or 0.0
        told: dict[str, Any] = {
            "event": event, "at_ns": int(at * 1e9), "id": self.id, "turn": self.turn,
            "canary": self.canary, "call": self.number, "do": self.behaviour.do,
        }  # fmt: skip
        if event == "end":
            told |= {"how": self.how, "deltas": self.deltas}
        return json.dumps(told) + "\n"


@dataclass
class FakeProvider:
    """The server. `calls` holds the newest ones; the log all of them."""

    seed: int = 0
    schedule: Schedule = field(default_factory=lambda: Schedule(0))
    log: Path | None = None
    url: str = ""
    connections: int = 0
    """Ever opened."""
    calls: list[Call] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _open: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def calls_of(self, turn: str) -> list[Call]:
        return [call for call in self.calls if call.turn == turn]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, any number of requests."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            await _Connection(self, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, HangUp):
            pass
        finally:
            del self._open[task]
            writer.close()

    def begin(self, body: dict[str, Any], key: str) -> Call:
        directive = Directive.find(_prompt_of(body))
        number = self._numbers[directive.turn] = self._numbers.get(directive.turn, 0) + 1
        behaviour = directive.behaviour(number) or self.schedule.behaviour(directive.turn, number)
        call = Call(
            len(self.calls) + 1, directive.turn, directive.canary, number, behaviour, body, key,
            time.monotonic(),
        )  # fmt: skip
        self.calls.append(call)
        self._write(call, "start")
        return call

    def end(self, call: Call, how: str, at: float | None = None) -> None:
        call.ended_at, call.how = at or time.monotonic(), how
        self._write(call, "end")

    def _write(self, call: Call, event: str) -> None:
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(call.line(event))

    async def aclose(self) -> None:
        for writer in self._open.values():
            writer.transport.abort()
        if self._open:
            await asyncio.wait(list(self._open))


class _Connection:
    """Reads requests, lets the behaviour answer, and notices at once when the client hangs up."""

    def __init__(
        self, provider: FakeProvider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._provider = provider
        self._reader = reader
        self._writer = writer
        self._ahead = b""
        self._closed_at: float | None = None

    async def run(self) -> None:
        while True:
            head = (self._ahead + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self._ahead = b""
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            length = int(headers["content-length"])
            assert length <= MAX_BODY_BYTES
            body = json.loads(await self._reader.readexactly(length))
            call = self._provider.begin(body, headers.get("authorization", ""))
            await self._answer(call)

    async def _answer(self, call: Call) -> None:
        answering = asyncio.create_task(Misbehaviour(self._provider.seed, call, self._writer).act())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([answering, watching], return_when=asyncio.FIRST_COMPLETED)
            if self._closed_at is None and not answering.done():
                await asyncio.wait([answering])  # bytes ahead of their time
        finally:
            for task in (answering, watching):
                task.cancel()
            await asyncio.wait([answering, watching])
            self._settle(call, answering)

    def _settle(self, call: Call, answering: asyncio.Task[None]) -> None:
        error = None if answering.cancelled() else answering.exception()
        if answering.cancelled() or isinstance(error, ConnectionError):
            self._provider.end(call, "client_closed", self._closed_at)
            raise ClientClosedError
        if isinstance(error, HangUp):
            self._provider.end(call, "hung_up")
            raise error
        self._provider.end(call, "done")
        if error is not None:
            raise error

    async def _watch(self) -> None:
        try:
            self._ahead = await self._reader.read(1)
        except ConnectionError:
            self._ahead = b""
        if not self._ahead:
            self._closed_at = time.monotonic()


class Misbehaviour:
    """One answer. Each public method but `act` is a behaviour that `Behaviour.do` can name."""

    def __init__(self, seed: int, call: Call, writer: asyncio.StreamWriter) -> None:
        self._seed = seed
        self._call = call
        self._wish = call.behaviour
        self._writer = writer
        self._undrained = 0
        self._is_head_sent = False

    async def act(self) -> None:
        do = self._wish.do
        if do.startswith("_") or do == "act" or not hasattr(self, do):
            raise ValueError(f"unknown behaviour {do!r}")
        await getattr(self, do)()
        await self._writer.drain()

    # -- good answers

    async def text(self) -> None:
        """`deltas` words, usage, `[DONE]`."""
        await self._words(self._wish.deltas)
        await self._finish()

    async def extra(self) -> None:
        """Fields that nobody knows."""
        await self._send_head()
        await self._write(b": a comment\n\n\nfoo: bar\nretry: 9\n")
        for _ in range(self._wish.deltas):
            await self._word(more={"x": {"y": [1, None]}})
        await self._finish(more={"novel": 1})

    async def tool(self) -> None:
        """A call of a tool that nobody offered; `value` are its arguments, by default broken."""
        function = {"name": "no_such_tool", "arguments": self._wish.value or '{"a": [1, '}
        called = {"index": 0, "id": "c1", "type": "function", "function": function}
        await self._send_head()
        await self._chunk(_choice({"tool_calls": [called]}))
        await self._finish("tool_calls")

    async def call(self) -> None:
        """A call of an offered tool; `value` is its name and its arguments as JSON text."""
        name, arguments = self._wish.value
        called = {"index": 0, "id": "c1", "type": "function"}
        await self._send_head()
        await self._chunk(
            _choice({"tool_calls": [called | {"function": {"name": name, "arguments": arguments}}]})
        )
        await self._finish("tool_calls")

    async def arguments(self) -> None:
        """A tool's arguments of `size` bytes, or without an end."""
        await self._send_head()
        sent = 0
        while not self._wish.size or sent < self._wish.size:
            function = {"name": "no_such_tool" if not sent else None, "arguments": "[" * 4096}
            called = {"index": 0, "id": "c1", "type": "function", "function": function}
            await self._chunk(_choice({"tool_calls": [called]}))
            sent += 4096
        await self._finish("tool_calls")

    async def usage(self) -> None:
        """`value` in place of the usage; None: none is told."""
        await self._words(self._wish.deltas)
        await self._finish(usage=self._wish.value)

    async def finish(self) -> None:
        """`value` as the reason to finish: `length`, `content_filter`, …"""
        await self._words(self._wish.deltas)
        await self._finish(self._wish.value)

    async def no_done(self) -> None:
        """Ends behind the usage, without `[DONE]`."""
        await self._words(self._wish.deltas)
        await self._finish(done=False)

    # -- refusals

    async def status(self) -> None:
        """An error with `status`; `value` is its `code`."""
        error = {"message": SECRET, "type": "x", "code": self._wish.value}
        headers = dict(_JSON)
        if self._wish.retry_after is not None:
            headers["retry-after"] = self._wish.retry_after
        await self._whole(self._wish.status, headers, json.dumps({"error": error}).encode())

    async def redirect(self) -> None:
        """To the address in `value`."""
        await self._whole(307, {"location": str(self._wish.value)}, b"")

    async def html(self) -> None:
        """A page, with `status`, or 200 when that is 500."""
        status = 200 if self._wish.status == 500 else self._wish.status
        page = f"<html><h1>{SECRET}</h1></html>".encode()
        await self._whole(status, {"content-type": "text/html"}, page)

    async def endless_error(self) -> None:
        """An error body that does not end."""
        await self._send_head(status=self._wish.status)
        while True:
            await self._write(b"x" * 65536)

    async def long_head(self) -> None:
        """Headers of `size` bytes."""
        await self._send_head({"x-long": "x" * self._wish.size})
        await self._words(self._wish.deltas)
        await self._finish()

    # -- silence and broken connections

    async def stall(self) -> None:
        """Nothing more, until the client hangs up."""
        await self._until_mischief()
        await asyncio.Event().wait()

    async def comments(self) -> None:
        """Comments for ever, which keep a connection alive and say nothing."""
        await self._until_mischief()
        while True:
            await self._write(b": still here\n\n", at_once=True)
            await asyncio.sleep(1 / (self._wish.per_second or 50))

    async def reset(self) -> None:
        """RST."""
        await self._until_mischief()
        await self._hang_up(reset=True)

    async def reset_in_delta(self) -> None:
        """RST in the middle of a delta's bytes."""
        await self._until_mischief()
        frame = _frame(_choice({"content": self._next_word()}))
        await self._raw(b"%x\r\n%s" % (len(frame), frame[: len(frame) // 2]))
        await self._hang_up(reset=True)

    async def cut(self) -> None:
        """FIN, without an end of the body."""
        await self._until_mischief()
        await self._hang_up(reset=False)

    async def ends_early(self) -> None:
        """A whole body, but no reason to finish, no usage, no `[DONE]`."""
        await self._until_mischief()
        await self._end_body()

    async def drip(self) -> None:
        """The answer, byte by byte, `per_second` of them."""
        await self._send_head()
        for _ in range(self._wish.deltas):
            for byte in _frame(_choice({"content": self._next_word()})):
                await self._write(bytes([byte]), at_once=True)
                await asyncio.sleep(1 / (self._wish.per_second or 1))
        await self._finish()

    # -- too much

    async def endless(self) -> None:
        """Words without an end."""
        await self._send_head()
        while True:
            await self._pace()
            await self._word()

    async def big(self) -> None:
        """`at` words, one delta of `size` bytes of `x`, and the other words."""
        await self._until_mischief()
        await self._chunk(_choice({"content": "x" * self._wish.size}))
        await self._words(self._wish.deltas - self._wish.at)
        await self._finish()

    async def flood(self) -> None:
        """`size` bytes of `x`, in deltas of 4096."""
        await self._send_head()
        for _ in range(self._wish.size // 4096):
            await self._chunk(_choice({"content": "x" * 4096}))
        await self._finish()

    async def empty(self) -> None:
        """`size` empty deltas, or without an end; then `deltas` words."""
        await self._send_head()
        count = 0
        while not self._wish.size or count < self._wish.size:
            await self._chunk(_choice({"content": ""}))
            count += 1
        await self._words(self._wish.deltas)
        await self._finish()

    async def endless_line(self) -> None:
        """One event that does not end, with `per_second` pieces of 64 KiB."""
        await self._until_mischief()
        await self._write(b'data: {"choices":[{"index":0,"delta":{"content":"')
        while True:
            await self._pace()
            await self._write(b"x" * 65536)

    async def gzip_bomb(self) -> None:
        """`size` zeros behind some words, compressed a thousandfold, though nobody asked for it."""
        content = b"".join(_frame(_choice({"content": self._next_word()})) for _ in range(2))
        content += b"data: " + b"0" * self._wish.size
        await self._send_head({"content-encoding": "gzip"})
        await self._write(await asyncio.to_thread(gzip.compress, content, 6))
        await self._end_body()

    # -- not what it should be

    async def hostile_text(self) -> None:
        """A delta that no store can hold, `HOSTILE`, behind `at` words."""
        await self._until_mischief()
        await self._chunk(_choice({"content": HOSTILE}))
        await self._finish()

    async def bad_utf8(self) -> None:
        """Bytes that are no UTF-8 in a delta."""
        await self._until_mischief()
        frame = _frame(_choice({"content": "@"})).replace(b"@", b"\xff\xfe\xc0\xaf")
        await self._write(frame)
        await self._finish()

    async def broken_json(self) -> None:
        """`value`, by default half an object, in place of a chunk."""
        await self._until_mischief()
        await self._write(b"data: " + str(self._wish.value or '{"choices": [').encode() + b"\n\n")
        await self._finish()

    async def content_type(self) -> None:
        """A good stream that says it is `value`."""
        await self._send_head({"content-type": str(self._wish.value)})
        await self._words(self._wish.deltas)
        await self._finish()

    async def error_event(self) -> None:
        """An error as an event of the stream; `value` is its `code`."""
        await self._until_mischief()
        error = {"message": SECRET, "type": "server_error", "code": self._wish.value}
        await self._write(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
        await self._end_body()

    # -- parts of answers

    async def _until_mischief(self) -> None:
        if self._wish.at < 0:
            return
        await self._send_head()
        await self._words(self._wish.at)
        await self._writer.drain()

    async def _words(self, count: int) -> None:
        await self._send_head()
        for _ in range(count):
            await self._pace()
            await self._word()

    async def _pace(self) -> None:
        if not self._wish.per_second:
            return
        await self._writer.drain()
        self._undrained = 0
        due = self._call.started_at + self._call.deltas / self._wish.per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _word(self, more: dict[str, Any] | None = None) -> None:
        await self._chunk(_choice({"content": self._next_word()}) | (more or {}))

    def _next_word(self) -> str:
        call = self._call
        said = word(self._seed, Word(call.canary, call.turn, call.number, call.deltas))
        call.deltas += 1
        return said

    async def _finish(
        self,
        reason: str = "stop",
        *,
        usage: dict[str, Any] | None = USAGE,
        more: dict[str, Any] | None = None,
        done: bool = True,
    ) -> None:
        await self._chunk(_choice({}, reason) | (more or {}))
        if usage is not None:
            await self._chunk({"choices": [], "usage": usage})
        if done:
            await self._write(b"data: [DONE]\n\n")
        await self._end_body()

    async def _chunk(self, told: dict[str, Any]) -> None:
        await self._write(_frame(told))

    # -- bytes

    async def _send_head(self, headers: dict[str, str] | None = None, status: int = 200) -> None:
        if self._is_head_sent:
            return
        self._is_head_sent = True
        lines = {**_EVENT_STREAM, "transfer-encoding": "chunked", **(headers or {})}
        head = f"HTTP/1.1 {status} -\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
        await self._raw(head.encode() + b"\r\n")

    async def _whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = {**headers, "content-length": str(len(body))}
        head = f"HTTP/1.1 {status} -\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
        await self._raw(head.encode() + b"\r\n" + body)

    async def _write(self, data: bytes, *, at_once: bool = False) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._undrained += 1
        if at_once or self._undrained >= _WRITES_BETWEEN_DRAINS or len(data) > 16_384:
            self._undrained = 0
            await self._writer.drain()

    async def _raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _end_body(self) -> None:
        await self._raw(b"0\r\n\r\n")

    async def _hang_up(self, *, reset: bool) -> None:
        # What was said before has left the client's kernel by then, so that each run is the same.
        await asyncio.sleep(0.05)
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
        raise HangUp


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _frame(told: dict[str, Any]) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "any", **told}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _prompt_of(body: dict[str, Any]) -> str:
    """The last user message."""
    content = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


@asynccontextmanager
async def run_provider(
    *,
    seed: int = 0,
    port: int = 0,
    schedule: Schedule | None = None,
    log: Path | None = None,
) -> AsyncIterator[FakeProvider]:
    """A provider in this process; `provider.url` is its base URL."""
    provider = FakeProvider(seed, schedule or Schedule(seed), log)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", port, limit=1 << 20)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield provider
    finally:
        server.close()
        await provider.aclose()
        await server.wait_closed()


async def _serve(arguments: argparse.Namespace) -> None:
    weighted = MIXED if arguments.schedule == "mixed" else None
    schedule = Schedule(arguments.seed, weighted)
    async with run_provider(
        seed=arguments.seed, port=arguments.port, schedule=schedule, log=arguments.log
    ) as provider:
        print(provider.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fake_provider")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="JSON lines, appended")
    parser.add_argument("--schedule", choices=["good", "mixed"], default="good")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
