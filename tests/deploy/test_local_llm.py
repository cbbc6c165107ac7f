"""The local model for real: it serves, streams, and ends on SIGTERM."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

from deploy import local_llm
from deploy.configuration import free_port
from tests.deploy.conftest import ROOT, wait_until

left_out = pytest.mark.skipif(
    os.environ.get("LOCAL_LLM") == "0", reason="LOCAL_LLM=0 leaves the local model out"
)


def is_healthy(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/health").status_code == 200
    except httpx.TransportError:
        return False


@left_out
@pytest.mark.timeout(120)
def test_streams_tokens_and_ends_on_sigterm() -> None:
    port = free_port()
    command = [sys.executable, "-m", "deploy.local_llm", "--port", str(port)]
    base_url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(
                lambda: is_healthy(base_url) or server.poll() is not None, "it is loaded", 60.0
            )
            assert server.poll() is None, "it ended: is the local model installed?"
            question = {
                "model": local_llm.MODEL_NAME,
                "stream": True,
                "max_tokens": 8,
                "messages": [{"role": "user", "content": "Say hello."}],
            }
            url = f"{base_url}/v1/chat/completions"
            with httpx.stream("POST", url, json=question, timeout=20) as answer:
                lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
            assert len(lines) > 3
            assert lines[-1] == "data: [DONE]"
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
        finally:
            server.kill()


def test_help_names_the_port() -> None:
    command = [sys.executable, "-m", "deploy.local_llm", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--port" in answer.stdout


def test_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_llm, "weights_path", lambda: None)
    assert not local_llm.is_installed()
    with pytest.raises(SystemExit, match="make setup"):
        local_llm.serve(port=1, threads=1)
