"""Owns the state directory of `make run`: one run at a time, secrets readable by its user alone.

Layout: postgres/ valkey/ (embedded servers), logs/, secrets.json, credentials.json, lock.
Files are replaced whole, so a reader never sees half of one.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from deploy.configuration import StartupError
from deploy.embedded.directory_lock import DirectoryInUseError, DirectoryLock

API_KEY_PREFIX = "vai_sk_"
SURFACE_PREFIXES = {
    "mechamental": {"token": "mm_tok_"},
    "kodey": {"secretKey": "sk_live_", "publishableKey": "pk_live_"},
    "zylon": {"token": "zy_tok_"},
}
SCOPES = {"workspaceId": "default", "appId": "default", "namespaceId": "default"}
"""Where the development credentials point; scopes are made by their first use."""


class StateDir:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = DirectoryLock(path)

    @property
    def credentials_path(self) -> Path:
        return self.path / "credentials.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def open(self) -> None:
        """Makes what is missing and takes the directory for this process."""
        try:
            make_directory(self.path, 0o711)  # the embedded server's user may have to pass through
            self._lock.acquire()
            make_directory(self.logs, 0o700)
        except DirectoryInUseError as error:
            raise StartupError(f"state directory {error}") from None
        except OSError as error:
            raise StartupError(
                f"cannot use state directory {self.path} ({error.strerror or error});"
                " set TURNKEEP_STATE_DIR to another"
            ) from None

    def close(self) -> None:
        self._lock.release()

    def key_pepper(self) -> str:
        """The secret that API keys are hashed with: made once, because every key depends on it."""
        path = self.path / "secrets.json"
        if not path.exists():
            self._write(path, {"keyPepper": secrets.token_urlsafe(32)})
        try:
            return str(json.loads(path.read_text())["keyPepper"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StartupError(
                f"{path} cannot be read ({error}); restore it, or remove it together with the data"
            ) from None

    def known(self, name: str) -> str | None:
        """A credential of the development user from an earlier start; `a.b` is one inside `a`."""
        try:
            value = json.loads(self.credentials_path.read_text())
            for step in name.split("."):
                value = value[step]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) and value else None

    def known_or_new_surface_secrets(self) -> dict[str, dict[str, str]]:
        """The development credentials of the surfaces that have kinds of their own."""
        return {
            surface: {
                name: self.known(f"{surface}.{name}") or prefix + secrets.token_urlsafe(32)
                for name, prefix in prefixes.items()
            }
            for surface, prefixes in SURFACE_PREFIXES.items()
        }

    def write_credentials(self, credentials: dict[str, Any]) -> None:
        self._write(self.credentials_path, credentials)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StartupError(f"cannot write {path} ({error.strerror or error})") from None


def make_directory(path: Path, mode: int) -> None:
    """Makes a directory with exactly this mode; one that is there keeps the mode it has."""
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(mode)


def new_api_key() -> str:
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def new_password() -> str:
    return secrets.token_urlsafe(12)
