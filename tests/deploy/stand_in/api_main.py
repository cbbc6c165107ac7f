"""Stands in for `python -m api`: ready at once, two routes, ends on SIGTERM."""

import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THREAD_ID = "0190a000-0000-7000-8000-000000000001"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, b"ready")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/threads"):
            self._answer(201, json.dumps({"id": THREAD_ID, "title": None}).encode())
            return
        seen = {
            "path": self.path,
            "body": json.loads(body),
            "authorization": self.headers["Authorization"],
        }
        print(
            json.dumps(
                {
                    "event": "turn.ended",
                    "level": "info",
                    "turn_id": "turn-1",
                    "thread_id": THREAD_ID,
                    "status": "completed",
                    "model_id": os.environ["TURNKEEP_DEFAULT_MODEL"],
                    "attempt": 1,
                    "duration_s": 1.25,
                    "output_tokens": 42,
                    "error_code": None,
                }
            ),
            flush=True,
        )
        self._answer(200, b"data: " + json.dumps(seen).encode() + b"\n\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
address = (os.environ["TURNKEEP_HOST"], int(os.environ["TURNKEEP_PORT"]))
ThreadingHTTPServer(address, Handler).serve_forever()
