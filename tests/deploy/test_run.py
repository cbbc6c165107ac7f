"""`make run` end to end: real servers and supervisor, stand-ins for the API and the workers."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.valkey import EmbeddedValkey
from tests.deploy.conftest import ORDINARY_USER_ID, Product, wait_until


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def has_successor(product: Product, module: str, pid: int) -> bool:
    return any(child.pid != pid for child in product.running(module))


@pytest.fixture
def ordinary_product(tmp_path: Path, ordinary_user: list[str]) -> Iterator[Product]:
    folder = tmp_path / "home"
    folder.mkdir()
    product = Product(folder, ordinary_user)
    if ordinary_user:
        os.chown(folder, ORDINARY_USER_ID, ORDINARY_USER_ID)
    yield product
    product.end()


def test_start_and_stop_twice_with_the_same_key_and_data(product: Product) -> None:
    product.start()
    first = product.credentials
    key = first["apiKey"]
    assert (first["email"], first["organization"]) == ("dev@localhost", "development")
    assert len(first["password"]) >= 16
    assert key.startswith("vai_sk_")
    assert len(key) == len("vai_sk_") + 43
    assert first["tenantId"] == "tenant-1"
    assert first["userId"] == "user-1"
    assert set(first["mechamental"]) == {"token", "orgId", "workspaceId", "appId", "namespaceId"}
    assert first["mechamental"]["orgId"] == "tenant-1"
    assert first["mechamental"]["token"].startswith("mm_tok_")
    assert first["kodey"]["secretKey"].startswith("sk_live_")
    assert first["kodey"]["publishableKey"].startswith("pk_live_")
    assert first["kodey"]["agentId"] == "agent-1"
    assert first["zylon"]["token"].startswith("zy_tok_")
    assert first["zylon"]["projectId"] == "proj_p1"
    assert first["openai"] == {"baseUrl": f"{first['baseUrl']}/v1", "apiKey": key}
    assert first["databaseUrl"].startswith("postgresql://")
    assert first["redisUrl"].startswith("unix:///")
    assert first["baseUrl"] in product.output
    assert key in product.output
    assert mode_of(product.state_dir / "credentials.json") == 0o600
    assert mode_of(product.state_dir / "secrets.json") == 0o600
    assert product.stop() == 0
    assert product.processes() == []

    product.start()
    assert product.credentials["apiKey"] == key
    assert product.credentials["password"] == first["password"]
    for surface in ("mechamental", "kodey", "zylon"):
        assert product.credentials[surface] == first[surface]
    assert key not in product.output
    assert product.stop() == 0
    assert product.processes() == []
    assert product.errors == ""


def test_banner_commands_stream_a_turn_when_pasted(product: Product) -> None:
    product.start()
    answer = subprocess.run(
        ["sh", "-c", product.commands], capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith("data: ")
    assert product.credentials["apiKey"] in answer.stdout
    assert "/turns/stream" in answer.stdout
    wait_until(lambda: "completed" in product.output, "the turn is shown")
    assert "scripted  1.25 s  42 tokens" in product.output
    assert product.stop() == 0


def test_warnings_are_readable_and_the_rest_is_in_the_log(product: Product) -> None:
    product.extra = {"TURNKEEP_WORKERS": "1"}
    product.start()
    wait_until(lambda: "redis.slow" in product.output, "the warning is shown")
    assert "worker-1  warning  redis.slow latency_ms=12" in product.output
    assert "worker.started" not in product.output
    assert "worker.started" in (product.state_dir / "logs" / "worker-1.log").read_text()
    assert product.stop() == 0


def test_nothing_survives_the_supervisors_sigkill_and_the_next_start_works(
    product: Product,
) -> None:
    product.start()
    assert len(product.processes()) > 4
    product.signal(signal.SIGKILL)
    product.wait()
    wait_until(lambda: not product.processes(), "every process has ended")
    product.start()
    assert product.stop() == 0


def test_killed_children_come_back(product: Product) -> None:
    product.extra = {"TURNKEEP_WORKERS": "1"}
    product.start()
    wait_until(lambda: product.running("worker"), "the worker runs")
    for module in ("worker", "api"):
        (child,) = product.running(module)
        child.kill()
        wait_until(partial(has_successor, product, module, child.pid), f"{module} is back")
    (server,) = [p for p in product.processes() if p.name() == "postgres" and "-D" in p.cmdline()]
    server.kill()
    wait_until(
        lambda: (product.state_dir / "logs/postgres.log").read_text().count("ready to") > 1,
        "Postgres is back",
    )
    assert "postgres  warning  ended (SIGKILL), starting again" in product.output
    assert product.stop() == 0


def test_second_signal_ends_a_hanging_worker_at_once(product: Product) -> None:
    product.extra = {"STAND_IN_WORKER": "hangs"}
    product.start()
    wait_until(lambda: "redis.slow" in product.output, "the worker ignores SIGTERM")
    product.signal(signal.SIGINT)
    wait_until(lambda: not product.running("api"), "the orderly stop has begun")
    while product.exit_code is None:  # a signal soon after the first counts as the same one
        product.signal(signal.SIGINT)
        try:
            assert product.process is not None
            product.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    assert product.exit_code == 0
    assert product.processes() == []


def test_modes_of_foreign_directories_stay(product: Product) -> None:
    parent = product.folder / "private"
    parent.mkdir(mode=0o700)
    given = parent / "given"
    given.mkdir(mode=0o750)
    product.state_dir = given
    product.start()
    assert product.stop() == 0
    assert mode_of(parent) == 0o700
    assert mode_of(given) == 0o750
    assert mode_of(product.folder) == 0o700


def test_long_state_dir_with_spaces_and_odd_characters(product: Product) -> None:
    product.state_dir = product.folder / ("long " * 30) / "it's 100% ünïcode, & more"
    product.start()
    answer = subprocess.run(
        ["sh", "-c", product.commands], capture_output=True, text=True, check=True
    )
    assert product.credentials["apiKey"] in answer.stdout
    assert product.stop() == 0


def test_ordinary_user(ordinary_product: Product) -> None:
    ordinary_product.start()
    owners = {process.uids().real for process in ordinary_product.processes()}
    assert owners == {ORDINARY_USER_ID if os.geteuid() == 0 else os.geteuid()}
    assert ordinary_product.stop() == 0
    assert ordinary_product.processes() == []


def test_unwritable_state_dir(ordinary_product: Product) -> None:
    closed = ordinary_product.folder / "closed"
    closed.mkdir(mode=0o555)
    ordinary_product.state_dir = closed / "state"
    assert "cannot use state directory" in ordinary_product.fail()


def test_state_dir_below_a_file(product: Product) -> None:
    file = product.folder / "file"
    file.touch()
    product.state_dir = file / "state"
    assert "cannot use state directory" in product.fail()


def test_busy_port(product: Product) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        product.extra = {"TURNKEEP_PORT": str(listener.getsockname()[1])}
        assert "set TURNKEEP_PORT" in product.fail()
    assert product.processes() == []


def test_state_dir_in_use(product: Product, tmp_path_factory: pytest.TempPathFactory) -> None:
    product.start()
    second = Product(tmp_path_factory.mktemp("second"), [])
    second.state_dir = product.state_dir
    assert product.process is not None
    assert f"in use by process {product.process.pid}" in second.fail()
    assert product.exit_code is None
    assert product.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TURNKEEP_DATABASE_URL", "postgresql://user:hidden@127.0.0.1:1/none"),
        ("TURNKEEP_DATABASE_URL", "mysql://127.0.0.1/none"),
        ("TURNKEEP_DATABASE_URL", "no url at all"),
        ("TURNKEEP_REDIS_URL", "redis://:hidden@127.0.0.1:1/0"),
        ("TURNKEEP_REDIS_URL", "unix:///nowhere.sock"),
        ("TURNKEEP_REDIS_URL", "nonsense"),
        ("TURNKEEP_REDIS_URL", "redis://127.0.0.1:port/0"),
        ("TURNKEEP_PORT", "eighty"),
        ("TURNKEEP_WORKERS", "-1"),
        ("TURNKEEP_HOST", "192.0.2.1"),
        ("TURNKEEP_PG_BIN", "/nowhere"),
    ],
)
def test_wrong_setting_is_one_line(product: Product, variable: str, value: str) -> None:
    product.extra = {variable: value}
    if variable == "TURNKEEP_DATABASE_URL":
        product.extra["TURNKEEP_REDIS_URL"] = "unix:///never-asked.sock"
    line = product.fail()
    assert variable in line
    assert "hidden" not in line
    assert product.processes() == []


def test_failed_migration_is_one_line(product: Product) -> None:
    (product.folder / "shared/postgres/migrate.py").write_text("raise SystemExit('no such column')")
    assert "no such column" in product.fail()
    assert product.processes() == []


def test_servers_of_the_user(product: Product, tmp_path: Path) -> None:
    with (
        EmbeddedPostgres(tmp_path / "own postgres", fsync=False) as postgres,
        EmbeddedValkey(tmp_path / "own valkey") as valkey,
    ):
        product.extra = {"TURNKEEP_DATABASE_URL": postgres.dsn, "TURNKEEP_REDIS_URL": valkey.url}
        product.start()
        assert product.credentials["databaseUrl"] == postgres.dsn
        assert product.credentials["redisUrl"] == valkey.url
        assert product.stop() == 0
        assert not (product.state_dir / "postgres").exists()
        assert not (product.state_dir / "valkey").exists()
        assert postgres.is_ready()
        assert valkey.is_ready()
