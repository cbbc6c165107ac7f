"""All configuration, read once from the environment in a `__main__` and passed down.

Every variable starts with `TURNKEEP_`; `python -m shared.settings` prints them with defaults.
Provider keys keep the names their SDKs use (`OPENAI_API_KEY`, …). `state_dir`, `workers` and
`dev_api_key` are listed for completeness: only `make run` and the seed read them.
"""

from __future__ import annotations

import re
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._:/+-]*")


class Settings(BaseSettings):
    """One deployment's configuration. Seconds end in `_s`, bytes in `_bytes`."""

    model_config = SettingsConfigDict(
        env_prefix="TURNKEEP_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    # -- where things are
    database_url: SecretStr = Field(description="Postgres, 14 or newer: postgresql://…")
    redis_url: SecretStr = Field(description="Redis 7 or Valkey: redis://, rediss:// or unix://")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    state_dir: Path = Field(default=Path(".turnkeep"), description="Data of `make run`")

    # -- processes
    api_processes: int = Field(default=1, ge=1, le=64)
    workers: int = Field(default=2, ge=0, le=64, description="Worker processes of `make run`")
    worker_concurrency: int = Field(default=100, ge=1, le=10_000, description="Turns per worker")
    api_database_connections: int = Field(default=8, ge=2, le=100)
    worker_database_connections: int = Field(default=4, ge=2, le=100)
    redis_prefix: str = Field(default="tk", pattern=r"^[a-z0-9-]{1,32}$")
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: int | None = Field(
        default=None, description="Workers: serve /metrics there, on TURNKEEP_HOST"
    )

    # -- credentials
    key_pepper: SecretStr = Field(min_length=16, description="Keys the hashes of API keys")
    dev_api_key: SecretStr | None = Field(default=None, description="Of the development user")

    auth_failures_per_minute: int = Field(
        default=120, ge=0, description="Per address and API process, then 429; 0: no limit"
    )

    # -- turns
    lease_s: float = Field(default=8.0, gt=0)
    heartbeat_s: float = Field(default=2.0, gt=0)
    reaper_interval_s: float = Field(default=0.25, gt=0)
    sweeper_interval_s: float = Field(default=1.0, gt=0)
    crash_budget: int = Field(default=3, ge=1, description="Worker losses before `poison`")
    queue_ttl_s: float = Field(default=86_400, gt=0, description="Then a pending turn expires")
    drain_s: float = Field(default=25.0, ge=0, description="Grace for turns at shutdown")
    idempotency_ttl_s: float = Field(default=86_400, ge=86_400, description="After the end")
    approval_ttl_s: float = Field(default=86_400, gt=0, description="To decide on a tool call")
    approval_expiry: Literal["deny", "cancel"] = Field(
        default="deny", description="What happens then: the call is denied, or the turn cancelled"
    )
    cancel_wait_s: float = Field(default=0.3, gt=0, description="Then a cancel is forced")

    # -- models
    default_model: str = "scripted"
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("OPENAI_API_KEY")
    )
    openai_chat_base_url: str | None = None
    openai_chat_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_API_KEY")
    )
    google_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("GEMINI_API_KEY", "GOOGLE_API_KEY")
    )
    local_llm_url: str | None = Field(default=None, description="http://127.0.0.1:PORT/v1")
    first_token_timeout_s: float = Field(default=30.0, gt=0)
    idle_timeout_s: float = Field(default=60.0, gt=0)
    turn_timeout_s: float = Field(default=300.0, gt=0)
    history_max_messages: int = Field(default=100, ge=1, le=1000)
    history_max_tokens: int = Field(default=32_000, ge=1, description="Estimated by size")

    # -- streams
    event_log_max_bytes: int = Field(default=16_777_216, ge=65_536)
    event_log_ttl_s: int = Field(default=3600, ge=60, description="After the turn has ended")
    live_ttl_s: int = Field(default=3600, ge=60, description="While the turn is active")
    keep_alive_s: float = Field(default=15.0, gt=0)
    stream_max_age_s: float = Field(default=900.0, gt=0)
    stream_buffer_bytes: int = Field(default=262_144, ge=4096)
    send_timeout_s: float = Field(default=30.0, gt=0)

    # -- limits on requests; 0 is none. docs/overload.md says how to choose them
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    max_queued_per_key: int = Field(default=1000, ge=0, description="Turns that wait")
    max_queued_per_tenant: int = Field(default=20_000, ge=0, description="Turns that wait")
    max_queued: int = Field(default=200_000, ge=0, description="Turns that wait, of all tenants")
    rate_limit_per_minute: int = Field(
        default=0, ge=0, description="Requests of a credential, per API process"
    )
    max_streams_per_key: int = Field(
        default=10_000, ge=0, description="Of a credential, per API process"
    )
    max_streams: int = Field(default=20_000, ge=0, description="Open ones, per API process")
    max_polls: int = Field(default=10_000, ge=0, description="`Prefer: wait`, per API process")
    max_connections: int = Field(default=30_000, ge=0, description="Per API process")

    # -- requests to addresses that tenants choose, of which there are none yet: docs/outbound.md
    outbound_ports: frozenset[int] = Field(default=frozenset({443, 8443}), description="JSON list")
    outbound_allow_http: bool = Field(default=False, description="For development only")
    outbound_own_addresses: frozenset[IPv4Address | IPv6Address] = Field(
        default=frozenset(), description="JSON list: our public addresses, refused to tenants"
    )
    outbound_proxy_url: SecretStr | None = Field(
        default=None, description="Egress proxy: http(s)://[user:password@]host:port"
    )

    def model_prefixes(self) -> tuple[str, ...]:
        """Prefixes of `modelId` that this deployment can run, `scripted` first."""
        configured = {
            "local:": self.local_llm_url,
            "openai:": self.openai_api_key,
            "openai-chat:": self.openai_chat_base_url or self.openai_api_key,
            "anthropic:": self.anthropic_api_key,
            "google:": self.google_api_key,
        }
        return ("scripted", *(prefix for prefix, value in configured.items() if value))

    def runs_model(self, model_id: str) -> bool:
        """Whether `model_id` is `scripted`, or one of `model_prefixes` and a model's name.

        Some providers take the name as part of a URL: what would lead elsewhere is no name.
        """
        if model_id == "scripted":
            return True
        provider, colon, name = model_id.partition(":")
        is_name = _MODEL_NAME.fullmatch(name) is not None and ".." not in name
        return is_name and provider + colon in self.model_prefixes()


def load_settings() -> Settings:
    """The settings of this process; ends it with one clear line when they are wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in item["loc"])
            variable = name if name.isupper() else f"TURNKEEP_{name.upper()}"
            sys.stderr.write(f"turnkeep: {variable}: {item['msg']}\n")
        raise SystemExit(2) from None


def _print_reference() -> None:
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else repr(field.default)
        variable = " or ".join(_variables(name, field))
        sys.stdout.write(f"{variable:41} {default:24} {field.description or ''}\n")


def _variables(name: str, field: FieldInfo) -> list[str]:
    """Names of the environment variables that set a field; the first that is set counts."""
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [f"TURNKEEP_{name.upper()}"]


if __name__ == "__main__":
    _print_reference()
