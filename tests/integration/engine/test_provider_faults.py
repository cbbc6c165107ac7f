"""Bad providers through the whole path: accept, claim, pydantic-ai, the SDK, log, Postgres.

Each turn ends in time, in the right status, with a typed error, and what was told is what is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.configuration import free_port
from shared.settings import Settings
from shared.turn.model import Principal, Turn
from tests.acceptance.product import Worker, percentile
from tests.chaos.fake_provider import HOSTILE, SECRET, USAGE, Call, FakeProvider, run_provider
from tests.chaos.provider_text import Behaviour, Directive, answer, origins
from tests.fixtures.system import (
    Api,
    MakeTurn,
    RunningWorker,
    StartWorker,
    add_thread,
    ends_once,
    events,
    follow_all,
    is_gapless,
    places,
    text_of,
)
from tests.fixtures.waiting import wait_until

SEED = 7
CANARY = "tenant-a"
MODEL = "openai-chat:any"
LOG_MAX_BYTES = 262_144
IMPATIENT = {"first_token_timeout_s": 3.0, "idle_timeout_s": 2.0, "turn_timeout_s": 6.0}
"""Deadlines for what ends by them alone; all else has production's and waits for none of them."""
_numbers = itertools.count(1)

# The libraries warn of odd usage figures; in production a warning is no error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Failed to extract usage"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]


@dataclass
class Outcome:
    """What came of one turn: the row, what a reader was told, what is stored."""

    turn: Turn
    told: str
    kept: str
    calls: list[Call]
    lasted_s: float

    @property
    def code(self) -> str | None:
        return self.turn.error["code"] if self.turn.error else None


@dataclass
class Bench:
    """A provider, a worker on it, and an API side."""

    provider: FakeProvider
    worker: RunningWorker
    api: Api
    make_turn: MakeTurn
    principal: Principal
    admin: Any
    _admin_is_free: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def submit(self, *calls: Behaviour) -> tuple[Turn, str]:
        """A turn in a thread of its own, and the name by which the provider knows it."""
        name = f"t{next(_numbers)}"
        prompt = Directive(name, CANARY, calls).prompt()
        async with self._admin_is_free:
            thread = await add_thread(self.admin, self.principal)
        new = replace(self.make_turn(prompt, thread=thread), model_id=MODEL, settings={})
        return await self.api.submit(new), name

    async def run(self, *calls: Behaviour) -> Outcome:
        began = time.monotonic()
        turn, name = await self.submit(*calls)
        batches = await follow_all(self.api.hub, turn)
        lasted_s = time.monotonic() - began
        return await self.outcome(turn, name, batches, lasted_s)

    async def run_all(self, wanted: dict[str, Behaviour]) -> dict[str, Outcome]:
        """Turns of one call each, all at once."""
        async with asyncio.TaskGroup() as group:
            runs = {name: group.create_task(self.run(wish)) for name, wish in wanted.items()}
        return {name: run.result() for name, run in runs.items()}

    async def outcome(self, turn: Turn, name: str, batches: Any, lasted_s: float) -> Outcome:
        ended = await self.api.end_of(turn)
        told = events(batches)
        assert ends_once(told)
        assert is_gapless(places(batches))
        async with self._admin_is_free:
            rows = await self.admin.fetch(
                "select content from messages where turn_id = $1 and role = 'assistant'", turn.id
            )
        kept = "".join(row["content"] for row in rows)
        assert text_of(told) == kept
        assert SECRET[:9] not in str(ended.error)
        assert "127.0.0.1" not in str(ended.error)
        return Outcome(ended, text_of(told), kept, self.provider.calls_of(name), lasted_s)


OpenBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def open_bench(
    api: Api, start_worker: StartWorker, make_turn: MakeTurn, principal: Principal, admin: Any
) -> AsyncIterator[OpenBench]:
    async with run_provider(seed=SEED) as provider:

        async def open_one(**settings: Any) -> Bench:
            worker = await start_worker(
                openai_chat_base_url=provider.url,
                default_model=MODEL,
                **{"event_log_max_bytes": LOG_MAX_BYTES, **settings},
            )
            await worker.parts.engines.preload()
            return Bench(provider, worker, api, make_turn, principal, admin)

        yield open_one


@pytest.fixture
async def bench(open_bench: OpenBench) -> Bench:
    return await open_bench()


def says(outcome: Outcome, deltas: int) -> str:
    call = outcome.calls[-1]
    return answer(SEED, call.turn, canary=CANARY, call=call.number, deltas=deltas)


B = Behaviour
LARGE = 10**30
TOOL = '{"a": %s}'

COMPLETES: dict[str, tuple[Behaviour, int]] = {
    "text": (B(), 5),
    "paced": (B(per_second=50), 5),
    "unknown fields": (B("extra"), 5),
    "no [DONE]": (B("no_done"), 5),
    "wrong content type": (B("content_type", value="text/plain"), 5),
    "unknown reason": (B("finish", value="novel"), 5),
    "length": (B("finish", value="length"), 5),
    "content filter": (B("finish", value="content_filter"), 5),
    "empty deltas": (B("empty", size=2000), 5),
    "no usage": (B("usage"), 5),
    "negative usage": (B("usage", value={k: -5 for k in USAGE if k != "prompt_tokens_details"}), 5),
    "huge usage": (B("usage", value={k: LARGE for k in USAGE if k != "prompt_tokens_details"}), 5),
    "usage in words": (B("usage", value={"prompt_tokens": "many", "completion_tokens": None}), 5),
    "usage NaN": (B("broken_json", value='{"choices":[],"usage":{"prompt_tokens":NaN}}'), 2),
    "chunk without choices": (B("broken_json", value='{"choices":null}'), 2),
    "content of a wrong type": (
        B("broken_json", value='{"choices":[{"index":0,"delta":{"content":{"a":1}}}]}'), 2,
    ),
}  # fmt: skip


async def test_odd_answers_complete(bench: Bench) -> None:
    outcomes = await bench.run_all({name: behaviour for name, (behaviour, _) in COMPLETES.items()})
    for name, (_, deltas) in COMPLETES.items():
        outcome = outcomes[name]
        assert (outcome.turn.status, outcome.code) == ("completed", None), name
        assert outcome.told == says(outcome, deltas), name
        assert {origin.canary for origin in origins(SEED, outcome.told)} == {CANARY}
        usage = outcome.turn.usage
        assert usage is not None
        assert 0 <= usage.input_tokens < 2**53, name
        assert len(outcome.calls) == 1, name


async def test_text_that_no_store_can_hold_is_mended(bench: Bench) -> None:
    outcome = await bench.run(B("hostile_text"))
    mended = HOSTILE.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert outcome.turn.status == "completed"
    assert outcome.told == says(outcome, 2) + mended


async def test_one_large_delta_is_told_and_kept_whole(bench: Bench) -> None:
    outcome = await bench.run(B("big", size=100_000))
    assert outcome.turn.status == "completed"
    assert (
        outcome.told == says(outcome, 2) + "x" * 100_000 + says(outcome, 5)[len(says(outcome, 2)) :]
    )


@dataclass(frozen=True)
class Failure:
    """How a turn fails: code, words kept, calls made, how the call ended, seconds at most."""

    behaviour: Behaviour
    code: str
    kept: int = 0
    calls: int = 1
    how: str = "done"
    within_s: float = 20.0


REFUSALS = {
    "429": Failure(B("status", status=429), "rate_limited", calls=2),
    "429 for long": Failure(B("status", status=429, retry_after="60"), "rate_limited"),
    "429 in words": Failure(B("status", status=429, retry_after="soon"), "rate_limited", calls=2),
    "quota": Failure(B("status", status=429, value="insufficient_quota"), "rate_limited"),
    "500": Failure(B("status"), "model_error", calls=2),
    "503": Failure(B("status", status=503), "model_error", calls=2),
    "401": Failure(B("status", status=401), "model_auth"),
    "400": Failure(B("status", status=400), "model_error"),
    "too long": Failure(
        B("status", status=400, value="context_length_exceeded"), "context_too_long"
    ),
    "redirect": Failure(B("redirect", value="http://127.0.0.1:1/"), "model_error"),
    "page": Failure(B("html"), "model_error"),
    "page with 502": Failure(B("html", status=502), "model_error", calls=2),
    "endless error": Failure(B("endless_error"), "model_error", calls=2, how="client_closed"),
    "1 MB of headers": Failure(B("long_head", size=1_000_000), "model_error", calls=2),
}
SILENCE = {
    "mute": Failure(B("stall", at=-1), "timeout", how="client_closed"),
    "silent": Failure(B("stall", at=0), "timeout", how="client_closed"),
    "stalls": Failure(B("stall"), "timeout", kept=2, how="client_closed"),
    "only comments": Failure(B("comments", at=0), "timeout", how="client_closed"),
    "comments at last": Failure(B("comments"), "timeout", kept=2, how="client_closed"),
    "a byte a second": Failure(B("drip"), "timeout", how="client_closed"),
    "slow bytes": Failure(B("drip", per_second=20), "timeout", how="client_closed"),
    "empty for ever": Failure(B("empty"), "timeout", how="client_closed"),
}
BROKEN_CONNECTIONS = {
    "reset at once": Failure(B("reset", at=-1), "model_error", calls=2, how="hung_up"),
    "reset behind head": Failure(B("reset", at=0), "model_error", calls=2, how="hung_up"),
    "reset": Failure(B("reset"), "model_error", kept=2, how="hung_up"),
    "reset in a delta": Failure(B("reset_in_delta"), "model_error", kept=2, how="hung_up"),
    "cut at once": Failure(B("cut", at=-1), "model_error", calls=2, how="hung_up"),
    "cut": Failure(B("cut"), "model_error", kept=2, how="hung_up"),
    "ends early": Failure(B("ends_early"), "model_error", kept=2),
}
MALFORMED = {
    "no UTF-8": Failure(B("bad_utf8"), "model_error", kept=2),
    "broken JSON": Failure(B("broken_json"), "model_error", kept=2),
    "a number": Failure(B("broken_json", value="5"), "model_error", kept=2),
    "null": Failure(B("broken_json", value="null"), "model_error", kept=2),
    "a list": Failure(B("broken_json", value="[]"), "model_error", kept=2),
    "delta as text": Failure(
        B("broken_json", value='{"choices":[{"index":0,"delta":"x"}]}'), "model_error", kept=2
    ),
    "choice as number": Failure(B("broken_json", value='{"choices":[5]}'), "model_error", kept=2),
    "deep JSON": Failure(B("broken_json", value="[" * 90_000), "model_error", kept=2),
    "error event": Failure(B("error_event"), "model_error", kept=2),
    "error event at once": Failure(
        B("error_event", at=0, value="rate_limit_exceeded"), "rate_limited", calls=2
    ),
    "unknown tool": Failure(B("tool", value="{}"), "model_error", calls=2),  # it is told once
    "tool's arguments broken": Failure(B("tool"), "model_error", calls=2),
    "tool's arguments huge": Failure(B("tool", value=TOOL % LARGE), "model_error", calls=2),
    "tool's arguments NaN": Failure(B("tool", value=TOOL % "NaN"), "model_error", calls=2),
    "tool's arguments deep": Failure(B("tool", value='{"a":' * 5000), "model_error", calls=2),
}
TOO_MUCH = {
    "one endless event": Failure(B("endless_line"), "output_limit", kept=2, how="client_closed"),
    "one huge event": Failure(
        B("big", size=5_000_000), "output_limit", kept=2, how="client_closed"
    ),
    "endless arguments": Failure(B("arguments"), "output_limit", how="client_closed"),
    "gzip bomb": Failure(B("gzip_bomb", size=10_000_000), "model_error"),
}


FAILS = {
    "refusals": REFUSALS,
    "silence": SILENCE,
    "broken connections": BROKEN_CONNECTIONS,
    "malformed": MALFORMED,
    "too much": TOO_MUCH,
}


@pytest.mark.parametrize("kind", FAILS)
async def test_bad_answers_fail_with_a_type_and_keep_what_was_said(
    open_bench: OpenBench, kind: str
) -> None:
    bench = await open_bench(**IMPATIENT if kind == "silence" else {})
    cases = FAILS[kind]
    outcomes = await bench.run_all({name: case.behaviour for name, case in cases.items()})
    for name, expected in cases.items():
        outcome = outcomes[name]
        assert (outcome.turn.status, outcome.code) == ("failed", expected.code), name
        assert outcome.told == says(outcome, expected.kept), name
        assert len(outcome.calls) == expected.calls, name
        assert outcome.turn.attempt == 1, name
        assert outcome.lasted_s < expected.within_s, (name, outcome.lasted_s)
        await wait_until(
            lambda calls=outcome.calls: all(call.how for call in calls),
            f"{name}: calls are over",
            2,
        )
        if expected.how == "client_closed":
            assert {call.how for call in outcome.calls} == {expected.how}, name


async def test_an_endless_answer_ends_at_the_log_s_limit_and_keeps_all_of_it(
    open_bench: OpenBench,
) -> None:
    log_max_bytes = 65_536
    bench = await open_bench(event_log_max_bytes=log_max_bytes)
    for behaviour in (B("endless"), B("flood", size=20_000_000)):
        outcome = await bench.run(behaviour)
        assert (outcome.turn.status, outcome.code) == ("failed", "output_limit")
        assert log_max_bytes / 3 < len(outcome.told) < log_max_bytes


async def test_other_turns_of_the_worker_do_not_notice(open_bench: OpenBench) -> None:
    bench = await open_bench()
    bad = [FAILS[kind] for kind in ("broken connections", "malformed", "too much")]
    async with asyncio.TaskGroup() as group:
        good = [group.create_task(bench.run(B(deltas=50, per_second=50))) for _ in range(10)]
        others = [
            group.create_task(bench.run(case.behaviour)) for cases in bad for case in cases.values()
        ]
    for task in good:
        outcome = task.result()
        assert outcome.turn.status == "completed"
        assert outcome.told == says(outcome, 50)
        assert outcome.lasted_s < 20  # it is busy with the bad ones, too
    assert {task.result().turn.status for task in others} == {"failed"}
    await wait_until(lambda: all(call.how for call in bench.provider.calls), "no call is open", 2)


# -- retries


RETRIED = {
    "429": B("status", status=429),
    "500": B("status"),
    "503": B("status", status=503),
    "reset": B("reset", at=-1),
    "reset behind head": B("reset", at=0),
    "error event": B("error_event", at=0, value="server_error"),
}


@pytest.mark.parametrize("name", RETRIED)
async def test_a_call_that_failed_before_its_first_word_is_made_once_more(
    bench: Bench, name: str
) -> None:
    outcome = await bench.run(RETRIED[name], B())
    assert (outcome.turn.status, outcome.turn.attempt) == ("completed", 1)
    assert [call.number for call in outcome.calls] == [1, 2]
    assert outcome.told == says(outcome, 5)


async def test_retry_after_is_obeyed_within_the_deadline(bench: Bench) -> None:
    outcome = await bench.run(B("status", status=429, retry_after="1"), B())
    first, second = outcome.calls
    assert outcome.turn.status == "completed"
    assert 1.0 <= second.started_at - (first.ended_at or 0) < 1.8


async def test_nothing_is_retried_once_a_word_was_told(bench: Bench) -> None:
    outcome = await bench.run(B("reset", at=1), B())
    assert outcome.turn.status == "failed"
    assert len(outcome.calls) == 1
    assert outcome.kept == says(outcome, 1)


async def test_an_outage_does_not_double_the_calls(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(bench.run(B("status", status=503)))
    # 10 saved and 6 earned; at most one per turn.
    assert 60 < len(bench.provider.calls) <= 76
    assert max(call.number for call in bench.provider.calls) == 2


# -- cancel


CANCELLED = {
    "mute": (B("stall", at=-1), 0),
    "silent": (B("stall", at=0), 0),
    "stalled": (B("stall"), 2),
    "comments": (B("comments"), 2),
    "dripping": (B("drip", per_second=10), 0),
    "speaking": (B("text", deltas=4000, per_second=30), None),
}
_EACH = 17


@pytest.mark.timeout(240)  # more than a hundred, one after the other
async def test_a_cancel_closes_the_provider_s_call(
    open_bench: OpenBench, capsys: pytest.CaptureFixture[str]
) -> None:
    """I12: 2 s at the 99th percentile, from asking for it."""
    bench = await open_bench(
        first_token_timeout_s=200, idle_timeout_s=200, turn_timeout_s=220, worker_concurrency=200
    )
    turns = [await bench.submit(b) for b, _ in CANCELLED.values() for _ in range(_EACH)]
    readers = [
        asyncio.create_task(follow_all(bench.api.hub, turn, patience_s=180)) for turn, _ in turns
    ]
    expected = [count or 0 for _, count in CANCELLED.values() for _ in range(_EACH)]

    def all_are_there() -> bool:
        calls = [bench.provider.calls_of(name) for _, name in turns]
        return all(c and c[0].deltas >= n for c, n in zip(calls, expected, strict=True))

    await wait_until(all_are_there, "every call has come to its state", 60)
    closed_s = []
    for (turn, name), reader in zip(turns, readers, strict=True):
        (call,) = bench.provider.calls_of(name)
        assert not call.is_over
        asked_at = time.monotonic()
        ended = await bench.api.cancels.cancel(bench.principal, turn.id)
        await wait_until(lambda call=call: call.is_over, "the call is closed", 5)
        assert call.ended_at is not None
        closed_s.append(call.ended_at - asked_at)
        assert ended.status == "cancelled"
        outcome = await bench.outcome(turn, name, await reader, 0.0)
        assert (outcome.turn.status, call.how) == ("cancelled", "client_closed")
        assert answer(SEED, name, canary=CANARY, deltas=call.deltas).startswith(outcome.kept)
    assert len(closed_s) >= 100
    p50, p99 = percentile(closed_s, 50), percentile(closed_s, 99)
    with capsys.disabled():
        print(
            f" [{len(closed_s)} cancels: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms] ", end=""
        )
    assert p99 <= 2.0


async def test_a_cancel_in_the_pause_before_a_retry_prevents_it(bench: Bench) -> None:
    turn, name = await bench.submit(B("status", status=429, retry_after="1"), B())
    await wait_until(lambda: [c for c in bench.provider.calls_of(name) if c.how], "it is refused")
    await bench.api.cancels.cancel(bench.principal, turn.id)
    assert (await bench.api.end_of(turn)).status == "cancelled"
    await asyncio.sleep(1.6)
    assert len(bench.provider.calls_of(name)) == 1


# -- memory


ENDLESS = {
    "flood": (B("flood", size=20_000_000), "output_limit"),
    "one event": (B("endless_line"), "output_limit"),
    "one huge event": (B("big", size=20_000_000), "output_limit"),
    "arguments": (B("arguments"), "output_limit"),
    "error": (B("endless_error"), "model_error"),
    "gzip bomb": (B("gzip_bomb", size=30_000_000), "model_error"),
}


async def test_a_worker_s_memory_stays_bounded(
    open_bench: OpenBench, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = await open_bench()
    await bench.worker.drain()
    variables = {
        "TURNKEEP_DATABASE_URL": settings.database_url.get_secret_value(),
        "TURNKEEP_REDIS_URL": settings.redis_url.get_secret_value(),
        "TURNKEEP_REDIS_PREFIX": settings.redis_prefix,
        "TURNKEEP_KEY_PEPPER": settings.key_pepper.get_secret_value(),
        "TURNKEEP_OPENAI_CHAT_BASE_URL": bench.provider.url,
        "TURNKEEP_METRICS_PORT": str(free_port()),
        "TURNKEEP_EVENT_LOG_MAX_BYTES": str(2 * 1024 * 1024),
        "TURNKEEP_DEFAULT_MODEL": MODEL,
    }
    process = Worker("worker", variables, tmp_path / "worker.log")
    try:
        await process.ready()
        assert (await bench.run(B())).turn.status == "completed"
        grown = {}
        for name, (behaviour, code) in ENDLESS.items():
            before = psutil.Process(process.pid).memory_info().rss
            peak = asyncio.create_task(_peak_rss(process.pid))
            outcome = await bench.run(behaviour)
            peak.cancel()
            await asyncio.wait([peak])
            assert outcome.code == code, (name, outcome.turn.error)
            grown[name] = (_peaks[process.pid] - before) / 1e6
        with capsys.disabled():
            print(" [MB:", ", ".join(f"{n} {mb:.0f}" for n, mb in grown.items()), "] ", end="")
        assert max(grown.values()) < 100
    finally:
        assert process.end_now() == 0


_peaks: dict[int, int] = {}


async def _peak_rss(pid: int) -> None:
    _peaks[pid] = 0
    while True:
        _peaks[pid] = max(_peaks[pid], psutil.Process(pid).memory_info().rss)
        await asyncio.sleep(0.005)
