"""The storm of cancelled callers, small: ours are told right, the careless client is not."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.acceptance.product import ROOT


def test_replies_reach_who_asked() -> None:
    command = [sys.executable, "-m", "tests.chaos.storm", "--operations", "1500", "--seed", "11"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=25, check=False)
    redis, postgres, careless = json.loads(ended.stdout)
    for ours in (redis, postgres):
        assert (ours["wrong"], ours["asked"]) == (0, 1500)
        assert ours["cancelled"] > 200, "the storm cancels"
        assert ours["answered"] > 200, "and lets some through"
    assert careless["wrong"] > 0, "the storm would find a reply that went astray"
    assert ended.returncode == 0
