"""The embedded servers alone: data kept, odd places, other users, leftovers of killed runs."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio
from arq.connections import RedisSettings

from deploy.embedded import postgres as postgres_module
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.server import EmbeddedServer, EmbeddedServerError
from deploy.embedded.tether import NAMESPACE, tethered
from deploy.embedded.valkey import EmbeddedValkey
from tests.deploy.conftest import ORDINARY_USER_ID, ROOT, has_ended, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root has to do differently")


async def remember(postgres: EmbeddedPostgres, word: str) -> list[str]:
    """Writes a word down; all the words there are."""
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        await connection.execute("INSERT INTO words VALUES ($1)", word)
        return [row["word"] for row in await connection.fetch("SELECT word FROM words")]
    finally:
        await connection.close()


async def test_postgres_keeps_data_over_a_restart(tmp_path: Path) -> None:
    for words in (["one"], ["one", "two"]):
        with EmbeddedPostgres(tmp_path / "data", fsync=False) as postgres:
            assert await remember(postgres, words[-1]) == words
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "cluster",
        "lock",
        "server.log",
    ]


async def test_postgres_comes_back_after_a_crash_at_the_same_address(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", fsync=False) as postgres:
        await remember(postgres, "one")
        dsn = postgres.dsn
        assert postgres.process is not None
        postgres.process.kill()
        postgres.process.wait()
        postgres.start()
        assert postgres.dsn == dsn
        assert await remember(postgres, "two") == ["one", "two"]


async def test_postgres_in_a_long_path_with_spaces(tmp_path: Path) -> None:
    place = tmp_path / "x y" / ("long" * 50) / "data"
    with EmbeddedPostgres(place, fsync=False) as postgres:
        assert await remember(postgres, "one") == ["one"]


async def test_postgres_on_another_file_system() -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir():
        pytest.skip("this system has no second file system that anyone may write")
    place = Path(tempfile.mkdtemp(dir=shared_memory))
    try:
        with EmbeddedPostgres(place / "data", fsync=False) as postgres:
            assert await remember(postgres, "one") == ["one"]
    finally:
        shutil.rmtree(place)


def test_postgres_is_durable_unless_asked_otherwise(tmp_path: Path) -> None:
    assert "fsync" not in EmbeddedPostgres(tmp_path).settings
    assert EmbeddedPostgres(tmp_path, fsync=False).settings["fsync"] == "off"


async def test_valkey_speaks_to_redis_py_and_arq(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "a b" / ("long" * 50)) as valkey:
        client = redis.asyncio.Redis.from_url(valkey.url)
        assert await client.ping()
        policy = await client.config_get("maxmemory*")
        assert policy["maxmemory"] == str(512 * 1024 * 1024)
        assert policy["maxmemory-policy"] == "noeviction"
        assert await client.config_get("save", "appendonly") == {"save": "", "appendonly": "no"}
        await client.aclose()
        assert RedisSettings.from_dsn(valkey.url).unix_socket_path == valkey.url[7:].split("?")[0]


@pytest.mark.parametrize("make", [EmbeddedPostgres, EmbeddedValkey])
def test_one_owner_at_a_time(make: Callable[[Path], EmbeddedServer], tmp_path: Path) -> None:
    with make(tmp_path / "data") as server:
        with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}"):
            make(tmp_path / "data").start()
        assert server.is_ready()
    make(tmp_path / "data").stop()  # stopping what never started is harmless


def test_socket_directories_are_private_and_removed(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "data") as valkey:
        socket_dir = valkey.socket_dir
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
    assert not socket_dir.exists()


OWNER = """
import signal, sys
from pathlib import Path
import deploy.embedded.server as server
from deploy.embedded.{module} import {name}
from deploy.embedded.tether import tethered
if sys.argv[2] == "untethered":  # as on a system without parent death signals
    server.tethered = lambda command, _, identity: tethered(command, 0, identity)
owned = {name}(Path(sys.argv[1]))
owned.start()
print(owned.process.pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize(
    ("module", "make"), [("postgres", EmbeddedPostgres), ("valkey", EmbeddedValkey)]
)
@pytest.mark.parametrize("kind", ["tethered", "untethered"])
def test_server_of_a_killed_owner_does_not_stay(
    module: str, make: type[EmbeddedServer], kind: str, tmp_path: Path
) -> None:
    script = OWNER.format(module=module, name=make.__name__)
    command = [sys.executable, "-c", script, str(tmp_path / "data"), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    if kind == "tethered":
        wait_until(partial(has_ended, pid), "the kernel has ended the server")
    else:
        assert not has_ended(pid)
    with make(tmp_path / "data") as server:
        assert has_ended(pid)
        assert server.is_ready()


def test_a_foreign_process_with_the_recorded_id_is_left_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with subprocess.Popen(["sleep", "60"]) as foreign:
        record = f'{{"pid": {foreign.pid}, "socketDir": "/tmp/turnkeep-somewhere"}}'
        (data_dir / "running.json").write_text(record)
        with EmbeddedValkey(data_dir):
            assert foreign.poll() is None
        foreign.kill()


def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", fsync=False):
        pass
    (tmp_path / "data/cluster/PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedServerError, match="is of PostgreSQL 9"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data", fsync=False, settings={"max_connections": "-3"})
    with pytest.raises(EmbeddedServerError, match="max_connections"):
        postgres.start()


def test_ordinary_user_starts_both(ordinary_user: list[str], tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if ordinary_user:
        os.chown(place, ORDINARY_USER_ID, ORDINARY_USER_ID)
    script = (
        "from pathlib import Path\n"
        "from deploy.embedded.postgres import EmbeddedPostgres\n"
        "from deploy.embedded.valkey import EmbeddedValkey\n"
        "with EmbeddedPostgres(Path('postgres')), EmbeddedValkey(Path('valkey')):\n"
        "    print('both run')\n"
    )
    answer = subprocess.run(
        [*ordinary_user, sys.executable, "-c", script],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.stdout, answer.stderr) == ("both run\n", "")


@pytest.fixture
def no_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], death_signal: signal.Signals, identity: str) -> list[str]:
        return ["false"] if identity == NAMESPACE else tethered(command, death_signal, identity)

    monkeypatch.setattr(postgres_module, "tethered", refuse)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are private."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@as_root
@pytest.mark.usefixtures("no_user_namespaces")
async def test_root_without_user_namespaces_runs_postgres_as_nobody(open_place: Path) -> None:
    with EmbeddedPostgres(open_place / "data", fsync=False) as postgres:
        assert postgres.process is not None
        assert psutil.Process(postgres.process.pid).uids().real == ORDINARY_USER_ID
        assert await remember(postgres, "one") == ["one"]
    assert open_place.stat().st_uid == 0


@as_root
async def test_data_made_as_nobody_serves_in_a_namespace_later(
    open_place: Path, request: pytest.FixtureRequest
) -> None:
    with EmbeddedPostgres(open_place / "data", fsync=False) as postgres:
        assert await remember(postgres, "one") == ["one"]
    request.getfixturevalue("no_user_namespaces")
    with EmbeddedPostgres(open_place / "data", fsync=False) as postgres:
        assert await remember(postgres, "two") == ["one", "two"]


@as_root
@pytest.mark.usefixtures("no_user_namespaces")
def test_root_without_any_way_says_so_and_changes_no_mode(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match="does not run as root") as caught:
        EmbeddedPostgres(closed / "data").start()
    assert "\n" not in str(caught.value)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
