"""`python -m api`: the HTTP server. SIGTERM drains it: not ready, streams told to reconnect, exit.

The `uvicorn.Server` is ours: with an SSE client connected, the stock one never reaches the end of
its lifespan, because it waits for responses that wait for events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final, cast

import structlog
import uvicorn

from api.app import Application, begin_drain, create_app
from api.connection import BoundedConnection, StallWatch
from shared.collector import calm_collector
from shared.log import configure_logging
from shared.settings import Settings, load_settings

log = structlog.get_logger(__name__)

GRACE_S: Final = 5
"""Requests under way at SIGTERM get so long; streams end at once with a reconnect hint."""
BACKLOG: Final = 2048
SEND_BUFFER_BYTES: Final = 262_144
_RESTART_PAUSE_S: Final = 0.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class DrainingServer(uvicorn.Server):
    """Tells the application of a signal before waiting for its responses; watches for stalls."""

    def __init__(self, config: uvicorn.Config, app: Application, send_timeout_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._watch = StallWatch(send_timeout_s, app.state.metrics.stalled_connections.inc)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            connections = cast("set[BoundedConnection]", self.server_state.connections)
            self._watch.look(list(connections), asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the drain, then does as uvicorn does."""
        begin_drain(self._app)
        super().handle_exit(sig, frame)


def bind(settings: Settings) -> socket.socket:
    """The listening socket; ends the process with one clear line when the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        sys.stderr.write(
            f"turnkeep: cannot listen on {settings.host}:{settings.port}: {error.strerror}\n"
        )
        raise SystemExit(1) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # What the system has taken for a client that is gone, or does not read, ends as well;
        # accepted connections inherit it.
        timeout_ms = int(settings.send_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    # Left to itself the system keeps megabytes for each client that does not read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serves in this process until SIGTERM or SIGINT."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=BoundedConnection,
        ws="none",  # nobody here speaks it
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # a peer is who it is, not who it says it speaks for
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        limit_concurrency=settings.max_connections or None,
    )
    _allow_files()
    calm_collector()
    with _deaf_at_the_end():
        DrainingServer(config, app, settings.send_timeout_s).run(sockets=[listener])


def _allow_files() -> None:
    """As many open files as the system lets us have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS names a limit it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _deaf_at_the_end() -> Iterator[None]:
    # uvicorn raises the signal again once it is done, and who is impatient sends it twice: this
    # process is on its way out by then, and its exit code is 0 all the same.
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


async def supervise(settings: Settings, listener: socket.socket) -> None:
    """Runs `api_processes` children on one socket; a child that dies is started again."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as group:
        for index in range(settings.api_processes):
            group.create_task(_keep_child(index, listener, stopping))


async def _keep_child(index: int, listener: socket.socket, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api", "--fd", str(listener.fileno()),
            pass_fds=(listener.fileno(),),
        )  # fmt: skip
        ended = asyncio.create_task(child.wait())
        asked = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                child.terminate()
                await asyncio.wait({ended}, timeout=GRACE_S + 5)
        finally:
            asked.cancel()
            if not ended.done():
                child.kill()
            await asyncio.wait({ended, asked})
        if not stopping.is_set():
            log.error("api.child_died", index=index, code=child.returncode)
            await asyncio.sleep(_RESTART_PAUSE_S)


def main() -> None:
    """Reads the settings and serves; exits with 0 after a drain."""
    parser = argparse.ArgumentParser(
        prog="python -m api",
        description="The HTTP API. Configured by TURNKEEP_* variables; "
        "`python -m shared.settings` lists them.",
    )
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    fd: int | None = parser.parse_args().fd
    settings = load_settings()
    configure_logging(process="api", level=settings.log_level, format_=settings.log_format)
    if fd is not None:
        serve(settings, socket.socket(fileno=fd))
    elif settings.api_processes == 1:
        serve(settings, bind(settings))
    else:
        asyncio.run(supervise(settings, bind(settings)))


if __name__ == "__main__":
    main()
