"""`python -m worker`: one worker process. SIGTERM and SIGINT drain it; the second one hurries."""

from __future__ import annotations

import argparse
import asyncio
import signal

import structlog
from prometheus_client import start_http_server

from shared.collector import calm_collector
from shared.log import configure_logging
from shared.metrics import Metrics
from shared.settings import Settings, load_settings
from worker.parts import open_parts
from worker.turn_worker import TurnWorker

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings) -> None:
    """Runs a worker until it has been drained."""
    metrics = Metrics()
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, settings.host, registry=metrics.registry)
    async with open_parts(settings, metrics) as parts, TurnWorker(parts) as worker:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, worker.drain)
        await parts.engines.preload()
        calm_collector()
        await worker.main()


def main() -> None:
    """Reads the settings and serves; exits with 0 after a drain."""
    argparse.ArgumentParser(
        prog="python -m worker",
        description="Claims and runs turns. Configured by TURNKEEP_* variables; "
        "`python -m shared.settings` lists them.",
    ).parse_args()
    settings = load_settings()
    configure_logging(process="worker", level=settings.log_level, format_=settings.log_format)
    try:
        import uvloop  # absent on Windows
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))
    # Drained: an impatient signal more must not turn our exit code into its own.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
