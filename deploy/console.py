"""What a person sees of `make run`: the banner, one line per turn, warnings and errors.

Everything a child says goes to its log file; here a line appears only for `turn.ended` and for
records of level warning and above. A closed terminal is no reason to stop, so writes may fail.
"""

import contextlib
import json
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from deploy.configuration import ModelChoice

TURN_EVENT = "turn.ended"
LOUD_LEVELS = {"warning": "yellow", "error": "red", "critical": "red", "exception": "red"}
STATUS_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "expired": "yellow"}
ANSI = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
FRAME_KEYS = {"event", "level", "timestamp", "logger", "process", "exception"}
MAX_LINE_CHARACTERS = 400


@dataclass(frozen=True)
class Banner:
    base_url: str
    model: ModelChoice
    workers: int
    credentials_path: Path
    logs: Path
    new_api_key: str | None
    ready_after_s: float


class Console:
    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._coloured = stream.isatty()

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._stream, flush=True)

    def step(self, text: str) -> None:
        self.say(self._paint("dim", f"  {text}"))

    def notice(self, name: str, level: str, text: str) -> None:
        label = self._paint(LOUD_LEVELS.get(level, "yellow"), level)
        self.say(f"{clock()}  {name}  {label}  {text[:MAX_LINE_CHARACTERS]}")

    def relay(self, name: str, line: bytes) -> None:
        """Shows what is worth a person's attention in one line of a child's log."""
        if not line.startswith(b"{"):
            return
        try:
            record = json.loads(line)
        except ValueError:
            return
        if record.get("event") == TURN_EVENT:
            self.say(f"{clock()}  {self._turn(record)}")
        elif record.get("level") in LOUD_LEVELS:
            self.notice(name, record["level"], describe(record))

    def banner(self, banner: Banner) -> None:
        def label(text: str) -> str:
            return self._paint("dim", f"{text:13}")

        lines = [
            "",
            f"  {self._paint('bold', 'Turnkeep is ready')}  {self._paint('bold', banner.base_url)}"
            + self._paint("dim", f"  (after {banner.ready_after_s:.1f} s)"),
            "",
            f"  {label('model')}{banner.model.model_id}  ({banner.model.reason})",
            f"  {label('workers')}{banner.workers}",
            f"  {label('credentials')}{banner.credentials_path}",
            f"  {label('logs')}{banner.logs}",
            f"  {label('stop')}Ctrl-C",
        ]
        if banner.new_api_key:
            lines.insert(6, f"  {label('new API key')}{banner.new_api_key}  (shown this once)")
        lines += ["", "  Stream a turn (paste into another terminal):", ""]
        lines += [*stream_commands(banner), ""]
        self.say("\n".join(lines))

    def _turn(self, record: dict[str, Any]) -> str:
        status = str(record.get("status", "?"))
        parts = [
            self._paint(STATUS_COLOURS.get(status, "dim"), f"{status:9}"),
            str(record.get("model_id") or "-"),
            f"{number(record.get('duration_s')):.2f} s",
            f"{number(record.get('output_tokens')):.0f} tokens",
        ]
        if number(record.get("attempt")) > 1:
            parts.append(f"attempt {record['attempt']}")
        if record.get("error_code"):
            parts.append(self._paint("red", str(record["error_code"])))
        parts.append(self._paint("dim", f"turn {record.get('turn_id', '?')}"))
        return "  ".join(parts)

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{ANSI[colour]}m{text}\033[0m" if self._coloured else text


def stream_commands(banner: Banner) -> list[str]:
    """Shell lines that stream a turn; plain sh, sed, grep, cut and curl."""
    threads = f"{banner.base_url}/api/v1/chat/threads"
    path = shlex.quote(str(banner.credentials_path))
    key = f"""KEY=$(sed -n 's/^  "apiKey": "\\(.*\\)".*/\\1/p' {path})"""
    first_id = """grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4"""
    thread = f"""THREAD=$(curl -s -X POST -H "Authorization: Bearer $KEY" {threads} | {first_id})"""
    turn = f"""curl -N -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
  -d '{{"message": "Tell me about the sea."}}' {threads}/$THREAD/turns/stream"""
    return [key, thread, turn]


def describe(record: dict[str, Any]) -> str:
    """A log record as one readable line: event, fields, the last line of its traceback."""
    details = [f"{key}={value}" for key, value in record.items() if key not in FRAME_KEYS]
    exception = str(record.get("exception") or "").strip().rpartition("\n")[2]
    words = [str(record.get("event", "")), *details, *([exception] if exception else [])]
    return " ".join(" ".join(words).split())


def number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
