"""What the commands need of the environment, and how they say that they cannot."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.outbound.url_rules import DEFAULT_PORTS


class CommandError(Exception):
    """The command cannot do what it was asked for; the message says why, in one line."""


class AdminSettings(BaseSettings):
    """What the commands need of the environment."""

    model_config = SettingsConfigDict(env_prefix="TURNKEEP_", extra="ignore")

    database_url: SecretStr
    key_pepper: SecretStr | None = Field(default=None, min_length=16)
    # where MCP servers may be: as the workers have it
    outbound_ports: frozenset[int] = DEFAULT_PORTS
    outbound_allow_http: bool = False
    outbound_own_addresses: frozenset[IPv4Address | IPv6Address] = frozenset()
    mcp_private_networks: frozenset[IPv4Network | IPv6Network] = frozenset()

    def pepper(self) -> bytes:
        """For making keys and sealing tokens, which no other commands need.

        Raises:
            CommandError: it is not set.
        """
        if self.key_pepper is None:
            raise CommandError("TURNKEEP_KEY_PEPPER must be set, the same as for API and workers")
        return self.key_pepper.get_secret_value().encode()
