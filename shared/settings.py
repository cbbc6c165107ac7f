"""All configuration, read once from the environment in a `__main__` and passed down.

Every variable starts with `TURNKEEP_`; `python -m shared.settings` prints them with defaults.
Provider keys keep the names their SDKs use (`OPENAI_API_KEY`, …). `workers`, `dev_api_key` and
`dev_password` are here for completeness: only `make run` and the seed read them.
"""

from __future__ import annotations

import re
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

_JWKS_URL: Final = re.compile(
    r"(?:https://|http://(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/]))[^\s@#]+"
)
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
    state_dir: Path = Field(default=Path(".turnkeep"), description="Data of `make run`; files")

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
    dev_password: SecretStr | None = Field(default=None, description="Of the same")
    ended_credentials_kept_s: float = Field(
        default=2_592_000, ge=86_400, description="Tokens and sessions, after they are over"
    )
    auth_failures_per_minute: int = Field(
        default=120, ge=0, description="Per address and API process, then 429; 0: no limit"
    )

    # -- signing in: docs/credentials.md
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s@?#]+$",
        description="Where browsers find the API: https://chat.example.org",
    )
    session_ttl_s: int = Field(
        default=604_800, ge=60, le=31_536_000, description="After signing in"
    )
    login_attempts: int = Field(
        default=10, ge=0, description="Wrong passwords of an account, then 429; 0: no limit"
    )
    login_window_s: int = Field(default=900, ge=1, description="In which they are counted")
    jwt_issuer: str | None = Field(default=None, description="Takes its tokens as credentials")
    jwt_audience: str | None = Field(default=None, description="What they must be made for")
    jwt_jwks_url: str | None = Field(default=None, description="Its keys: https://…")
    jwt_jwks_file: Path | None = Field(default=None, description="Its keys, instead of the URL")
    jwt_algorithms: frozenset[Literal["RS256", "ES256", "EdDSA"]] = Field(
        default=frozenset({"RS256", "ES256", "EdDSA"}), min_length=1, description="JSON list"
    )
    jwt_max_validity_s: int = Field(default=86_400, ge=60, description="A longer one is refused")
    jwt_tenant: str | None = Field(default=None, description="Of all its users: short name or id")
    jwt_tenant_claim: str | None = Field(default=None, description="Or the claim that names it")
    jwt_auto_provision: bool = Field(default=False, description="Makes users it vouches for")

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

    sync_wait_s: float = Field(
        default=120.0, gt=0, description="Requests that answer when their turn has ended, at most"
    )

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
    local_llm_tools: bool = Field(
        default=False, description="Offer tools to local: models; the one that ships knows none"
    )
    first_token_timeout_s: float = Field(default=30.0, gt=0)
    idle_timeout_s: float = Field(default=60.0, gt=0)
    turn_timeout_s: float = Field(default=300.0, gt=0)
    history_max_messages: int = Field(default=100, ge=1, le=1000)
    history_max_tokens: int = Field(default=32_000, ge=1, description="Estimated by size")

    # -- tools of agents: docs/agents.md
    tool_timeout_s: float = Field(default=20.0, gt=0, le=120, description="Of one tool call")
    tool_max_calls: int = Field(default=50, ge=1, le=1000, description="Of one turn")
    tool_http_request: bool = Field(
        default=False, description="Agents may ask public HTTP servers: docs/outbound.md"
    )
    tool_http_requests_per_tenant: int = Field(
        default=8, ge=0, description="At once, per worker; 0 is no limit"
    )
    mcp_connect_timeout_s: float = Field(
        default=10.0, gt=0, le=60, description="MCP servers: to connect and list tools"
    )
    mcp_private_networks: frozenset[IPv4Network | IPv6Network] = Field(
        default=frozenset(), description="JSON list: where MCP servers may be besides the internet"
    )

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
        default=0, ge=0, description="Of an API key, or of a user, per API process"
    )
    max_streams_per_key: int = Field(
        default=10_000, ge=0, description="Of an API key, or of a user, per API process"
    )
    max_streams: int = Field(default=20_000, ge=0, description="Open ones, per API process")
    max_polls: int = Field(
        default=10_000, ge=0, description="Requests that wait for a turn's end, per API process"
    )
    max_connections: int = Field(default=30_000, ge=0, description="Per API process")

    # -- the Kodey surface: docs/surfaces/kodey.md
    kodey_wait_s: float = Field(
        default=120.0, gt=0, description="How long a message's answer is waited for"
    )
    kodey_busy_wait_s: float = Field(
        default=60.0, gt=0, description="The same behind an earlier message; then 429"
    )
    kodey_publishable_strict: bool = Field(
        default=False, description="Publishable keys neither list nor delete chats: 403"
    )
    kodey_publishable_per_minute: int = Field(
        default=100, ge=0, description="Requests of a key, per API process; 0: as all credentials"
    )
    kodey_secret_per_minute: int = Field(default=1000, ge=0, description="The same of secret keys")

    # -- files
    objects_url: str | None = Field(
        default=None,
        pattern=r"^(?:s3://[a-z0-9][a-z0-9.-]+(?:/.*)?|file:///.+)$",
        description="s3://bucket/prefix or file:///folder; else `objects` in the state directory",
    )
    objects_endpoint: str | None = Field(default=None, description="S3: https://…, if not AWS")
    objects_region: str | None = Field(default=None, description="S3")
    objects_access_key_id: SecretStr | None = Field(default=None, description="S3")
    objects_secret_access_key: SecretStr | None = Field(default=None, description="S3")
    max_upload_bytes: int = Field(default=52_428_800, ge=1024, description="Of one file")
    max_transfers: int = Field(
        default=64, ge=0, description="Files on their way in or out, per API process; 0 is no limit"
    )
    max_artifacts_per_tenant: int = Field(default=100_000, ge=0, description="0 is no limit")
    max_stored_bytes_per_tenant: int = Field(
        default=107_374_182_400, ge=0, description="Of all its artifacts; 0 is no limit"
    )
    max_attachments_per_thread: int = Field(default=1000, ge=0, description="0 is no limit")
    ingestion_concurrency: int = Field(default=1, ge=0, le=16, description="Per worker")
    ingestion_memory_bytes: int = Field(
        default=536_870_912, ge=134_217_728, description="Address space of a reading process"
    )
    ingestion_cpu_s: int = Field(default=60, ge=1, description="Of a reading process")
    ingestion_timeout_s: float = Field(default=120.0, gt=0, description="Of a reading process")
    ingestion_poll_s: float = Field(default=2.0, gt=0, description="When no job rings")
    ingestion_wait_s: float = Field(
        default=10.0, ge=0, description="How long a turn waits for texts still being read"
    )
    extracted_text_max_bytes: int = Field(default=1_048_576, ge=1024, description="Then it is cut")

    # -- automations: docs/automations.md
    automation_concurrency: int = Field(default=4, ge=0, le=100, description="Runs per worker")
    automation_poll_s: float = Field(default=2.0, gt=0, description="When no job rings")

    # -- requests to addresses that tenants choose: docs/outbound.md
    outbound_ports: frozenset[int] = Field(default=frozenset({443, 8443}), description="JSON list")
    outbound_allow_http: bool = Field(default=False, description="For development only")
    outbound_own_addresses: frozenset[IPv4Address | IPv6Address] = Field(
        default=frozenset(), description="JSON list: our public addresses, refused to tenants"
    )
    outbound_proxy_url: SecretStr | None = Field(
        default=None, description="Egress proxy: http(s)://[user:password@]host:port"
    )

    @model_validator(mode="after")
    def _require_all_about_the_issuer(self) -> Self:
        if self.jwt_issuer is None:
            return self
        if not self.jwt_audience:
            raise ValueError("TURNKEEP_JWT_AUDIENCE must be set with TURNKEEP_JWT_ISSUER")
        if (self.jwt_jwks_url is None) == (self.jwt_jwks_file is None):
            raise ValueError("one of TURNKEEP_JWT_JWKS_URL and TURNKEEP_JWT_JWKS_FILE must be set")
        if (self.jwt_tenant is None) == (self.jwt_tenant_claim is None):
            raise ValueError("one of TURNKEEP_JWT_TENANT and TURNKEEP_JWT_TENANT_CLAIM must be set")
        if self.jwt_jwks_url is not None and not _JWKS_URL.fullmatch(self.jwt_jwks_url):
            raise ValueError("TURNKEEP_JWT_JWKS_URL must be https://… (http:// on loopback only)")
        return self

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
            if not item["loc"]:  # about several at once: it names them
                sys.stderr.write(f"turnkeep: {item['msg'].removeprefix('Value error, ')}\n")
                continue
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
