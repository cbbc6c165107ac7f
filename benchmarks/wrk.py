"""Saturated load with wrk: one thread, a request and a check written in Lua (`load.lua`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.answers import Ask
from benchmarks.load import LoadResult
from benchmarks.progress import say

SCRIPT = Path(__file__).with_name("load.lua")


def find_wrk() -> str | None:
    """Where wrk is, when it is installed."""
    return shutil.which("wrk")


def install_wrk() -> str | None:
    """Installs Debian's package where that needs no question; None where it cannot be done."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return None
    say("  installing wrk")
    subprocess.run([apt, "install", "-y", "-qq", "wrk"], capture_output=True, check=False)
    return find_wrk()


def run_wrk(
    wrk: str, port: int, ask: Ask, prefix: str, *, connections: int, seconds: float
) -> LoadResult:
    """Keeps `connections` busy for about `seconds` and checks every answer."""
    whole_s = max(1, round(seconds))
    with tempfile.TemporaryDirectory(prefix="turnkeep-wrk-") as folder:
        ask_file, ids_file = Path(folder) / "ask.lua", Path(folder) / "ids"
        ask_file.write_text(lua_table(ask), encoding="ascii")
        ids_file.write_text("\n".join(ask.ids), encoding="ascii")
        command = [wrk, "-t1", f"-c{connections}", f"-d{whole_s}s", "--timeout", "30s"]
        command += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}/", "--"]
        command += [str(ask_file), str(ids_file) if ask.ids else "-", prefix]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=whole_s + 60
        ).stdout
    return read_result(output)


def read_result(output: str) -> LoadResult:
    """What `load.lua` wrote."""
    found = json.loads(output.rpartition("RESULT ")[2].splitlines()[0])
    return LoadResult(
        client="wrk",
        done=found["done"],
        took_s=found["took_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        bad=found["bad"] + found["broken"],
        fault=found["fault"] or ("connection broken" if found["broken"] else ""),
    )


def lua_table(ask: Ask) -> str:
    """The ask as a Lua file; JSON's strings are Lua's as long as they are printable ASCII."""
    texts = {
        "method": ask.method,
        "path": ask.path,
        "path_tail": ask.path_tail,
        "head": ask.head_lines(),
        "body": ask.body,
        "body_tail": ask.body_tail,
        "marker": ask.answer.marker,
        "end": ask.answer.end,
    }
    lines = [f"[{json.dumps(name)}] = {json.dumps(text)}," for name, text in texts.items()]
    deltas = ", ".join(json.dumps(text) for text in ask.answer.deltas)
    return f"return {{ {' '.join(lines)} status = {ask.answer.status}, deltas = {{ {deltas} }} }}\n"
