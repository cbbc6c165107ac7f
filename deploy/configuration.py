"""What `make run` was asked to do: read once from the environment, before anything starts."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROVIDER_MODELS = {  # the first key that is set decides
    "OPENAI_API_KEY": "openai:gpt-5-mini",
    "ANTHROPIC_API_KEY": "anthropic:claude-haiku-4-5",
    "GEMINI_API_KEY": "google:gemini-2.5-flash",
    "GOOGLE_API_KEY": "google:gemini-2.5-flash",
}
LOCAL_MODEL = "local:smollm2"
SCRIPTED_MODEL = "scripted"
WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  where to reach it


class StartupError(Exception):
    """The product cannot be run as asked; the message is one line for the user."""


@dataclass(frozen=True)
class Configuration:
    host: str
    port: int
    state_dir: Path
    workers: int
    database_url: str | None
    redis_url: str | None
    dev_api_key: str | None
    dev_password: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Configuration":
        host = environment.get("TURNKEEP_HOST", "127.0.0.1")
        port = whole_number(environment, "TURNKEEP_PORT", 8000, maximum=65535)
        return cls(
            host=host,
            port=port or free_port(),
            state_dir=Path(environment.get("TURNKEEP_STATE_DIR") or ".turnkeep").absolute(),
            workers=whole_number(environment, "TURNKEEP_WORKERS", 2, maximum=64),
            database_url=environment.get("TURNKEEP_DATABASE_URL") or None,
            redis_url=environment.get("TURNKEEP_REDIS_URL") or None,
            dev_api_key=environment.get("TURNKEEP_DEV_API_KEY") or None,
            dev_password=environment.get("TURNKEEP_DEV_PASSWORD") or None,
        )

    @property
    def reachable_host(self) -> str:
        return WILDCARD_HOSTS.get(self.host, self.host)

    @property
    def base_url(self) -> str:
        host = self.reachable_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def require_free_port(self) -> None:
        try:
            addresses = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = addresses[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise StartupError(
                f"cannot listen on {self.host}:{self.port} ({error.strerror or error});"
                " set TURNKEEP_PORT or TURNKEEP_HOST to another"
            ) from None


def whole_number(environment: Mapping[str, str], name: str, default: int, *, maximum: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) <= maximum):
        raise StartupError(f"{name}={text} is not a number from 0 to {maximum}")
    return int(text)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class ModelChoice:
    """The default model, and why it is that one."""

    model_id: str
    reason: str

    @property
    def is_local(self) -> bool:
        return self.model_id.startswith("local:")


def choose_model(environment: Mapping[str, str], *, local_llm_installed: bool) -> ModelChoice:
    chosen = environment.get("TURNKEEP_DEFAULT_MODEL")
    if chosen:
        return ModelChoice(chosen, "TURNKEEP_DEFAULT_MODEL")
    for variable, model_id in PROVIDER_MODELS.items():
        if environment.get(variable):
            return ModelChoice(model_id, f"{variable} is set")
    if environment.get("LOCAL_LLM") == "0":
        return ModelChoice(SCRIPTED_MODEL, "no model: no provider key is set, and LOCAL_LLM=0")
    if not local_llm_installed:
        return ModelChoice(
            SCRIPTED_MODEL,
            "no model: no provider key, and the local one is not installed (make setup)",
        )
    return ModelChoice(
        LOCAL_MODEL,
        "tiny but real, on this CPU; for a better one set OPENAI_API_KEY, ANTHROPIC_API_KEY"
        " or GEMINI_API_KEY",
    )


def children_environment(configuration: Configuration, added: Mapping[str, str]) -> dict[str, str]:
    """What the API and the workers see: the caller's environment, then ours; no user's key."""
    found = {**os.environ, **added}
    environment = {name: v for name, v in found.items() if not name.startswith("TURNKEEP_DEV_")}
    environment.setdefault("TURNKEEP_DRAIN_S", "4")  # less than the time they get to stop
    return environment | {
        "TURNKEEP_HOST": configuration.host,
        "TURNKEEP_PORT": str(configuration.port),
        "TURNKEEP_STATE_DIR": str(configuration.state_dir),
        "TURNKEEP_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
        "PYDANTIC_AI_NO_BANNER": "1",
    }
