"""Bodies about the caller's own account: signing in, access tokens, preferences."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.validation import QueryInt
from api.wire import Model
from shared.service.passwords import MAX_CHARS
from shared.service.users import MAX_TOKEN_DAYS, time_zones


def _time_zone(name: str) -> str:
    if name not in time_zones():
        raise ValueError("Input should be the name of an IANA time zone")
    return name


TimeZone = Annotated[str, AfterValidator(_time_zone)]
Locale = Annotated[
    str,
    StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*$"),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
TokenType = Literal["api_key", "pat", "session", "jwt"]

# -- signing in


class LogIn(Model):
    """`organization`, its short name, is needed by who has accounts in several."""

    email: str = Field(min_length=1, max_length=320)
    password: str = Field(
        min_length=1, max_length=MAX_CHARS, json_schema_extra={"format": "password"}
    )
    organization: str | None = Field(default=None, max_length=255)


class Organization(Model):
    id: str
    name: str
    slug: str


class SessionInfo(Model):
    auth_method: Literal["bearer", "api_key", "cookie"]
    token_type: TokenType
    session_id: str
    organization: Organization


class User(Model):
    id: str
    email: str
    name: str
    timezone: str | None
    locale: str | None
    created_at: datetime


class Me(Model):
    session: SessionInfo
    user: User


def user_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_me` or `update_user` as `User` describes it."""
    return {
        "id": str(row["id"]),
        "email": row["email"],
        "name": row["name"],
        "timezone": row["timezone"],
        "locale": row["locale"],
        "createdAt": row["created_at"],
    }


# -- preferences


class UpdatePreferences(Model):
    """What is named is changed; null clears."""

    timezone: TimeZone | None = Field(default=None, examples=["Europe/Vienna"])
    locale: Locale | None = Field(default=None, examples=["de-AT"])


class UpdateUser(UpdatePreferences):
    name: Name = Field(default_factory=str)  # absent leaves it; there is no null


class Preferences(Model):
    timezone: str | None
    locale: str | None


# -- access tokens


class CreateAccessToken(Model):
    name: Name
    expires_in_days: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKEN_DAYS,
        strict=True,
        description=f"Default {MAX_TOKEN_DAYS}",
    )


class AccessToken(Model):
    id: str
    name: str
    token_prefix: str
    token_type: TokenType
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")
    revoked_at: datetime | None


class CreatedAccessToken(Model):
    plaintext: str = Field(description="Shown this once")
    token: AccessToken


class AccessTokenList(Model):
    items: list[AccessToken]
    next_cursor: str | None


class AccessTokenListQuery(Model):
    limit: QueryInt = Field(default=50, ge=1, le=100)
    cursor: str | None = None


def token_to_dict(row: Any) -> dict[str, Any]:
    """A row of `list_access_tokens` as `AccessToken` describes it."""
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "tokenPrefix": row["prefix"],
        "tokenType": row["token_type"],
        "createdAt": row["created_at"],
        "expiresAt": row["expires_at"],
        "lastUsedAt": row["last_used_at"],
        "revokedAt": row["revoked_at"],
    }
