"""Signs webhooks and verifies them as receivers do: Standard Webhooks 1.0.0, symmetric (`v1`).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
The signed text is `{webhook-id}.{webhook-timestamp}.{body}`. Callers keep two promises: every
retry of a delivery bears the id of its first attempt, with the time of the retry itself; and the
body that is signed is, byte for byte, the body that is sent.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
TOLERANCE_S: Final = 300
MAX_SIGNATURES: Final = 16
_NEW_KEY_BYTES: Final = 32
_KEY_BYTES: Final = range(24, 65)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class SignatureRejected(ValueError):
    """The message is not from who holds a secret, was changed, or is too old or too new."""


def new_secret() -> str:
    """A fresh secret for one endpoint: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_KEY_BYTES)).decode()


def sign(
    endpoint_secrets: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """The three headers of one attempt, one signature for each secret, in their order.

    Two secrets are in use while one replaces the other: the receiver accepts either.

    Raises:
        ValueError: no secret or one that is malformed; an id or time that could not be signed.
    """
    if not 1 <= len(endpoint_secrets) <= MAX_SIGNATURES:
        raise ValueError(f"one to {MAX_SIGNATURES} secrets sign a webhook")
    if not _ID.fullmatch(webhook_id):
        raise ValueError("a webhook id is 1 to 128 of A-Z a-z 0-9 _ -")
    timestamp = str(timestamp_s)
    if not _TIMESTAMP.fullmatch(timestamp):
        raise ValueError("a timestamp is whole seconds since 1970")
    keys = [_key(secret) for secret in endpoint_secrets]
    signatures = [_signature(key, webhook_id, timestamp, body) for key in keys]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def verify(
    endpoint_secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float | None = None,
) -> None:
    """Returns when a signature in `headers` (lower-case names) is one of the secrets'.

    The time may differ from `now_s` (default: this machine's clock) by `TOLERANCE_S` at most.

    Raises:
        SignatureRejected: a header is missing or malformed, the time is off, or nothing matches.
        ValueError: a secret is malformed.
    """
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not _ID.fullmatch(webhook_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise SignatureRejected("webhook-id or webhook-timestamp is missing or malformed")
    now = time.time() if now_s is None else now_s
    if abs(now - int(timestamp)) > TOLERANCE_S:
        raise SignatureRejected("webhook-timestamp is too old or too new")
    offered = headers.get("webhook-signature", "").split(" ")
    if len(offered) > MAX_SIGNATURES:
        raise SignatureRejected("too many signatures")
    matches = False
    for secret in endpoint_secrets:
        expected = f"v1,{_signature(_key(secret), webhook_id, timestamp, body)}".encode()
        for signature in offered:
            matches |= hmac.compare_digest(expected, signature.encode(errors="replace"))
    if not matches:
        raise SignatureRejected("no signature matches")


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret is whsec_ and base64") from None
    if encoded == secret or len(key) not in _KEY_BYTES:
        raise ValueError("a webhook secret is whsec_ and 24 to 64 bytes in base64")
    return key


def _signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = b"%b.%b.%b" % (webhook_id.encode(), timestamp.encode(), body)
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
