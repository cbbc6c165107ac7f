"""Stands in for `python -m worker`: says that it runs; ends on SIGTERM unless told to hang."""

import json
import os
import signal

if os.environ.get("STAND_IN_WORKER") == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"event": "worker.started", "level": "info", "pid": os.getpid()}), flush=True)
print(json.dumps({"event": "redis.slow", "level": "warning", "latency_ms": 12}), flush=True)
while True:
    signal.pause()
