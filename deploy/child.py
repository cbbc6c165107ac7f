"""Children of the supervisor: start, watch, start again after a death, stop.

A child that cannot stay up ends the whole run with its own last words; one that was killed from
outside, or that ended in good order, is simply started again.
"""

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from deploy.bounded_log import BoundedLog
from deploy.embedded.server import EmbeddedServer, EmbeddedServerError
from deploy.embedded.tether import tethered

QUICK_FAILURE_S = 10.0
QUICK_FAILURES_MAX = 5
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
POLL_INTERVAL_S = 0.1
KEPT_LINES = 12
MAX_LINE_BYTES = 65536
KILLED_FROM_OUTSIDE = {0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}

LineHandler = Callable[[str, bytes], None]
Report = Callable[[str, str, str], None]  # name of the child, level, text


class ChildFailedError(Exception):
    """A child does not stay up."""

    def __init__(self, name: str, last_lines: list[str]) -> None:
        super().__init__(f"{name} does not stay up")
        self.name = name
        self.last_lines = last_lines


class RestartPolicy:
    """How long to wait before the next start, and when to give up."""

    def __init__(self) -> None:
        self._quick_failures = 0

    def delay_after_s(self, exit_code: int, lived_s: float) -> float | None:
        """None: give up."""
        if exit_code in KILLED_FROM_OUTSIDE:
            return FIRST_DELAY_S
        self._quick_failures = self._quick_failures + 1 if lived_s < QUICK_FAILURE_S else 1
        if self._quick_failures >= QUICK_FAILURES_MAX:
            return None
        return float(min(FIRST_DELAY_S * 4 ** (self._quick_failures - 1), MAX_DELAY_S))


class Child(ABC):
    name: str
    process: subprocess.Popen[bytes] | None = None
    is_stopping: bool = False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def spawn(self) -> None:
        """Starts the process, from the main thread; raises EmbeddedServerError or OSError."""

    @abstractmethod
    async def become_ready(self) -> None: ...

    @abstractmethod
    def last_lines(self) -> list[str]: ...

    @abstractmethod
    async def stop(self, grace_s: float) -> None: ...

    async def keep_up(self, report: Report) -> None:
        """Watches a started child until it is told to stop; raises ChildFailedError."""
        policy = RestartPolicy()
        while self.process is not None:
            started_at_s = time.monotonic()
            exit_code = await exited(self.process)
            if self.is_stopping:
                return
            await self._start_again(exit_code, started_at_s, policy, report)

    async def _start_again(
        self, exit_code: int, started_at_s: float, policy: RestartPolicy, report: Report
    ) -> None:
        while not self.is_stopping:
            lines = self.last_lines()
            delay_s = policy.delay_after_s(exit_code, time.monotonic() - started_at_s)
            if delay_s is None:
                raise ChildFailedError(self.name, lines)
            words = f": {lines[-1]}" if lines and exit_code != 0 else ""
            report(self.name, "warning", f"ended ({how(exit_code)}), starting again{words}")
            await asyncio.sleep(delay_s)
            started_at_s, exit_code = time.monotonic(), 1
            with contextlib.suppress(EmbeddedServerError, OSError):
                self.spawn()
                await self.become_ready()
                return


class Program(Child):
    """A command whose output we relay: the API, a worker, the local model."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: BoundedLog,
        on_line: LineHandler,
    ) -> None:
        self.name = name
        self.death_signal = signal.SIGKILL  # sent by the kernel when the supervisor dies
        self._command = command
        self._environment = environment
        self._log = log
        self._on_line = on_line
        self._kept: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._relay: asyncio.Task[None] | None = None

    def spawn(self) -> None:
        self._kept.clear()
        self.process = subprocess.Popen(
            tethered(self._command, self.death_signal),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        self._relay = asyncio.create_task(self._relay_output(self.process))

    async def become_ready(self) -> None:
        """Nothing to wait for: what needs this child waits for its answers."""

    def last_lines(self) -> list[str]:
        return list(self._kept)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then after `grace_s` SIGKILL for it and whatever it started."""
        self.is_stopping = True
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await exited(self.process)
        self.kill()
        await exited(self.process)
        if self._relay is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._relay
        self._log.close()

    def kill(self) -> None:
        """Ends the child and the processes it forked: its session is its own."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def _relay_output(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        unfinished = b""
        while chunk := await reader.read(MAX_LINE_BYTES):
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            for line in lines:
                self._take(line)
            if len(unfinished) > MAX_LINE_BYTES:
                self._take(unfinished)
                unfinished = b""
        if unfinished:
            self._take(unfinished)
        transport.close()

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the product
            self._log.write(line + b"\n")
        text = line[:MAX_LINE_BYTES].decode(errors="replace").strip()
        if text:
            self._kept.append(text)
        self._on_line(self.name, line)


class Server(Child):
    """An embedded Postgres or Valkey."""

    def __init__(self, name: str, server: EmbeddedServer) -> None:
        self.name = name
        self.server = server

    def spawn(self) -> None:
        self.server.spawn()
        self.process = self.server.process

    async def become_ready(self) -> None:
        await asyncio.to_thread(self.server.wait_until_ready)

    def last_lines(self) -> list[str]:
        return [self.server.last_error()]

    async def stop(self, grace_s: float) -> None:
        self.is_stopping = True
        await asyncio.to_thread(self.server.stop, grace_s)


async def exited(process: subprocess.Popen[bytes]) -> int:
    """The exit code, once there is one; negative for a signal."""
    while (exit_code := process.poll()) is None:
        if not hasattr(os, "pidfd_open"):
            await asyncio.sleep(POLL_INTERVAL_S)
            continue
        descriptor = os.pidfd_open(process.pid)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return exit_code


def how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
