"""The product on one machine (`make run`): what it consists of, in which order it starts and stops.

    Postgres ┐                         ┌ API ──────┐
    Valkey   ┼─ migrate ─ development ─┼ worker 1  ┼─ ready
    local model ┘          user        └ worker n  ┘

Invariants: nothing outlives this process; data is kept; whatever the user can put right is said
in one line, and the exit code tells whether all went well.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from deploy import local_llm
from deploy.bounded_log import BoundedLog, begin_log, cut_log
from deploy.child import Child, ChildFailedError, Program, Server
from deploy.configuration import (
    Configuration,
    ModelChoice,
    StartupError,
    children_environment,
    choose_model,
    free_port,
)
from deploy.connections import answers_ok, one_line, require_postgres, require_redis
from deploy.console import Banner, Console
from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.server import EmbeddedServer, EmbeddedServerError
from deploy.embedded.tether import tethered
from deploy.embedded.valkey import EmbeddedValkey
from deploy.state_dir import SCOPES, StateDir, new_api_key, new_password

READY_PATIENCE_S = 60.0
READY_POLL_S = 0.03
LOCAL_LLM_PATIENCE_S = 20.0
PROGRAM_GRACE_S = 6.0
SERVER_GRACE_S = 1.5
SAME_PRESS_S = 0.5  # a signal to a whole process group may arrive twice
LOG_CHECK_INTERVAL_S = 10.0
DESCRIPTION = "Run Turnkeep on this machine, on an embedded Postgres and Valkey."
HELP = """environment:
  TURNKEEP_HOST, TURNKEEP_PORT   where the API listens (127.0.0.1:8000)
  TURNKEEP_STATE_DIR             data, logs, credentials (.turnkeep)
  TURNKEEP_WORKERS               worker processes (2)
  TURNKEEP_API_PROCESSES         API processes (1)
  TURNKEEP_DATABASE_URL          use this Postgres instead of the embedded one
  TURNKEEP_REDIS_URL             use this Redis or Valkey instead of the embedded one
  TURNKEEP_DEV_API_KEY           API key of the development user (made at first start)
  TURNKEEP_DEV_PASSWORD          their password (the same)
  TURNKEEP_DEFAULT_MODEL         model of turns that name none
  LOCAL_LLM=0                    no local model
"""


class StopSignals:
    """The first signal asks for an orderly end, a later one for an immediate one."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.orderly = asyncio.Event()
        self.immediate = asyncio.Event()
        self._first_at_s = 0.0
        loop = asyncio.get_running_loop()
        for number in self.NUMBERS:
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        now_s = time.monotonic()
        if not self.orderly.is_set():
            self._first_at_s = now_s
            self.orderly.set()
        elif now_s - self._first_at_s > SAME_PRESS_S:
            self.immediate.set()

    def hold_back(self) -> None:
        """From now on: all has ended, and one more press must not make an orderly end a death."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.NUMBERS)


class OneMachine:
    def __init__(self, configuration: Configuration, console: Console) -> None:
        self.configuration = configuration
        self.console = console
        self.state_dir = StateDir(configuration.state_dir)
        self.servers: list[Server] = []
        self.programs: list[Program] = []
        self.local_model: Program | None = None
        self.environment: dict[str, str] = {}

    @property
    def children(self) -> list[Child]:
        return [*self.programs, *([self.local_model] if self.local_model else []), *self.servers]

    async def run(self) -> None:
        """Starts everything and keeps it up until it is cancelled."""
        begun_at_s = time.monotonic()
        self.configuration.require_free_port()
        self.state_dir.open()
        model = choose_model(os.environ, local_llm_installed=local_llm.is_installed())
        if model.is_local and "TURNKEEP_LOCAL_LLM_URL" not in os.environ:
            local_model_port = self._spawn_local_model()
        else:
            local_model_port = None
        database_url, redis_url = await self._start_servers()
        self.environment = children_environment(
            self.configuration,
            {
                "TURNKEEP_DATABASE_URL": database_url,
                "TURNKEEP_REDIS_URL": redis_url,
                "TURNKEEP_KEY_PEPPER": os.environ.get("TURNKEEP_KEY_PEPPER")
                or self.state_dir.key_pepper(),
            },
        )
        async with asyncio.TaskGroup() as keepers:
            for server in self.servers:
                keepers.create_task(server.keep_up(self.console.notice))
            await self._ask("shared.postgres.migrate", self.environment)
            if local_model_port is not None:
                model = await self._await_local_model(model, local_model_port)
            self.environment["TURNKEEP_DEFAULT_MODEL"] = model.model_id
            self._spawn_programs()
            for program in self.programs:
                keepers.create_task(program.keep_up(self.console.notice))
            if self.local_model is not None:
                keepers.create_task(self._keep_local_model(self.local_model))
            keepers.create_task(self._bound_server_logs())
            new_key = await self._make_credentials(database_url, redis_url)
            await self._await_api()
            self.console.banner(
                Banner(
                    base_url=self.configuration.base_url,
                    model=model,
                    workers=self.configuration.workers,
                    credentials_path=self.state_dir.credentials_path,
                    logs=self.state_dir.logs,
                    new_api_key=new_key,
                    ready_after_s=time.monotonic() - begun_at_s,
                )
            )

    async def shut_down(self) -> None:
        """Who accepts and runs turns first, then what they need. At most 6 + 2 seconds."""
        for child in self.children:
            child.is_stopping = True
        await stop_all(self.programs, PROGRAM_GRACE_S)
        if self.local_model is not None:
            await self.local_model.stop(SERVER_GRACE_S)
        await stop_all(self.servers, SERVER_GRACE_S)
        self.state_dir.close()

    def kill(self) -> None:
        """The end at once. Postgres recovers from its log at the next start."""
        for child in self.children:
            if child.process is not None and child.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)

    # -- the parts, in the order in which they start

    async def _start_servers(self) -> tuple[str, str]:
        """The database's and the Redis's URL: the user's where given, else of servers of ours."""
        configuration, path = self.configuration, self.state_dir.path
        postgres = valkey = None
        if configuration.redis_url is None:
            valkey = EmbeddedValkey(path / "valkey", log_path=self._log_path("valkey"))
            self._spawn_server("valkey", valkey)
        if configuration.database_url is None:
            if not (path / "postgres" / "cluster").exists():
                self.console.step("making the database")
            postgres = EmbeddedPostgres(path / "postgres", log_path=self._log_path("postgres"))
            self._spawn_server("postgres", postgres)
        if configuration.database_url is not None:
            await require_postgres(configuration.database_url)
        if configuration.redis_url is not None:
            await require_redis(configuration.redis_url)
        for server in self.servers:
            await server.become_ready()
        return (
            configuration.database_url or (postgres.dsn if postgres else ""),
            configuration.redis_url or (valkey.url if valkey else ""),
        )

    def _spawn_server(self, name: str, server: EmbeddedServer) -> None:
        begin_log(server.log_path)
        child = Server(name, server)
        self.servers.append(child)
        child.spawn()

    def _spawn_local_model(self) -> int:
        port = free_port()
        self.local_model = self._program(
            "local-model", ["-m", "deploy.local_llm", "--port", str(port)], dict(os.environ)
        )
        self.local_model.spawn()
        return port

    async def _await_local_model(self, model: ModelChoice, port: int) -> ModelChoice:
        """The model when it answers in time; without it the product runs all the same."""
        deadline_s = time.monotonic() + LOCAL_LLM_PATIENCE_S
        while self.local_model is not None and self.local_model.is_running:
            if await answers_ok("127.0.0.1", port, "/health"):
                self.environment["TURNKEEP_LOCAL_LLM_URL"] = f"http://127.0.0.1:{port}/v1"
                return model
            if time.monotonic() > deadline_s:
                break
            await asyncio.sleep(READY_POLL_S)
        reason = "it gave no reason"
        if self.local_model is not None:
            reason = (self.local_model.last_lines() or [reason])[-1]
            await self.local_model.stop(0)
            self.local_model = None
        return ModelChoice("scripted", f"no model: the local one did not start ({reason})")

    async def _keep_local_model(self, local_model: Program) -> None:
        try:
            await local_model.keep_up(self.console.notice)
        except ChildFailedError as error:
            self.console.notice(error.name, "error", f"{error}; turns that need it will fail")

    def _spawn_programs(self) -> None:
        api = self._program("api", ["-m", "api"], self.environment)
        if self.environment.get("TURNKEEP_API_PROCESSES", "1") != "1":
            api.death_signal = signal.SIGTERM  # the parent of several ends them itself
        self.programs.append(api)
        for number in range(1, self.configuration.workers + 1):
            self.programs.append(
                self._program(f"worker-{number}", ["-m", "worker"], self.environment)
            )
        for program in self.programs:
            program.spawn()

    def _program(self, name: str, arguments: list[str], environment: dict[str, str]) -> Program:
        log = BoundedLog(self._log_path(name))
        return Program(name, [sys.executable, *arguments], environment, log, self.console.relay)

    async def _make_credentials(self, database_url: str, redis_url: str) -> str | None:
        """Writes credentials.json; the API key when it is a new one."""
        known_key = self.configuration.dev_api_key or self.state_dir.known("apiKey")
        api_key = known_key or new_api_key()
        password = (
            self.configuration.dev_password or self.state_dir.known("password") or new_password()
        )
        surfaces = self.state_dir.known_or_new_surface_secrets()
        secrets = {
            "TURNKEEP_DEV_API_KEY": api_key,
            "TURNKEEP_DEV_PASSWORD": password,
            "TURNKEEP_DEV_MECHAMENTAL_TOKEN": surfaces["mechamental"]["token"],
            "TURNKEEP_DEV_KODEY_SECRET_KEY": surfaces["kodey"]["secretKey"],
            "TURNKEEP_DEV_KODEY_PUBLISHABLE_KEY": surfaces["kodey"]["publishableKey"],
            "TURNKEEP_DEV_ZYLON_TOKEN": surfaces["zylon"]["token"],
        }
        answer = await self._ask("shared.service.seed", {**self.environment, **secrets})
        try:
            made = json.loads(answer.strip().rpartition("\n")[2])
            who = {name: made[name] for name in ("tenantId", "userId", "email", "organization")}
            surfaces["mechamental"] |= {"orgId": made["tenantId"], **SCOPES}
            surfaces["kodey"]["agentId"] = made["agentId"]
            surfaces["zylon"]["projectId"] = "proj_" + made["projectId"].replace("-", "")
        except (ValueError, KeyError, TypeError):
            raise StartupError(f"the development user was not made: {one_line(answer)}") from None
        base_url = self.configuration.base_url
        self.state_dir.write_credentials(
            {
                "apiKey": api_key,
                **who,
                "password": password,
                "baseUrl": base_url,
                "databaseUrl": database_url,
                "redisUrl": redis_url,
                **surfaces,
                "openai": {"baseUrl": f"{base_url}/v1", "apiKey": api_key},
            }
        )
        return None if known_key else api_key

    async def _ask(self, module: str, environment: dict[str, str]) -> str:
        """Runs `python -m module` to its end and returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            *tethered([sys.executable, "-m", module], signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode != 0:
            lines = (errors or output).decode(errors="replace").strip().splitlines()
            last = one_line(lines[-1]) if lines else "no reason given"
            told_by_us = last.startswith("turnkeep: ")
            raise StartupError(
                last.removeprefix("turnkeep: ") if told_by_us else f"{module} failed: {last}"
            )
        return output.decode()

    async def _await_api(self) -> None:
        host, port = self.configuration.reachable_host, self.configuration.port
        deadline_s = time.monotonic() + READY_PATIENCE_S
        while not await answers_ok(host, port, "/readyz"):
            if time.monotonic() > deadline_s:
                raise StartupError(
                    f"the API was not ready within {READY_PATIENCE_S:.0f} s;"
                    f" see {self._log_path('api')}"
                )
            await asyncio.sleep(READY_POLL_S)

    async def _bound_server_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            for child in self.servers:
                with contextlib.suppress(OSError):
                    cut_log(child.server.log_path)

    def _log_path(self, name: str) -> Path:
        return self.state_dir.logs / f"{name}.log"


async def stop_all(children: Iterable[Child], grace_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.stop(grace_s))


async def supervise(configuration: Configuration, console: Console) -> int:
    """Runs the product until a signal or a failure; the exit code."""
    signals = StopSignals()
    machine = OneMachine(configuration, console)
    running = asyncio.create_task(machine.run())
    asked_to_stop = asyncio.create_task(signals.orderly.wait())
    await asyncio.wait({running, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        console.say("  stopping")
        running.cancel()
    try:
        failure = await outcome(running)
    finally:
        asked_to_stop.cancel()
        await shut_down_or_kill(machine, signals)
        signals.hold_back()
    if failure is None:
        return 0
    for line in failure:
        print(line, file=sys.stderr)
    return 1


async def outcome(running: asyncio.Task[None]) -> list[str] | None:
    """What to tell the user about a run that ended by itself; None when it was cancelled."""
    try:
        await running
    except asyncio.CancelledError:
        return None
    except (StartupError, EmbeddedServerError, OSError) as error:
        return [f"turnkeep: {error}"]
    except ExceptionGroup as group:
        known, unknown = group.split((StartupError, EmbeddedServerError, ChildFailedError, OSError))
        if unknown is not None:
            raise unknown from None
        return explain(known)
    return ["turnkeep: ended without being asked to"]


def explain(group: BaseExceptionGroup[BaseException] | None) -> list[str]:
    error: BaseException | None = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    words = error.last_lines if isinstance(error, ChildFailedError) else []
    return [f"turnkeep: {error}", *(f"  {line}" for line in words)]


async def shut_down_or_kill(machine: OneMachine, signals: StopSignals) -> None:
    shutting_down = asyncio.create_task(machine.shut_down())
    impatient = asyncio.create_task(signals.immediate.wait())
    await asyncio.wait({shutting_down, impatient}, return_when=asyncio.FIRST_COMPLETED)
    if not shutting_down.done():
        machine.kill()
    await shutting_down
    impatient.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make run",
        description=DESCRIPTION,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        configuration = Configuration.from_environment(os.environ)
        sys.exit(asyncio.run(supervise(configuration, Console())))
    except StartupError as error:
        sys.exit(f"turnkeep: {error}")


if __name__ == "__main__":
    main()
