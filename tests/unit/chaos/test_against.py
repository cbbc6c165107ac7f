"""What `python -m tests.chaos.against` takes, and what it plans."""

from __future__ import annotations

import pytest

from shared.settings import Settings
from tests.chaos import against
from tests.chaos.foreign import Refused, _require_answer, reach
from tests.chaos.run import Plan

SETTINGS = Settings(
    database_url="postgresql://h/d", redis_url="redis://h", key_pepper="a pepper for tests"
)
URL = ("--url", "http://h:8000")


def plan_of(*arguments: str) -> Plan:
    return against._plan(against._parse([*URL, *arguments]), SETTINGS)


def test_faults_take_turns_for_as_long_as_was_asked() -> None:
    plan = plan_of("--minutes", "2", "--every", "20", "--fault", "a=x", "--fault", "b=y|z")
    assert [fault.id for fault in plan.faults] == ["a", "b", "a", "b", "a"]
    assert plan.interval_s * len(plan.faults) + 2 * plan.clean_s == pytest.approx(120, abs=20)
    assert plan.faults[1].title == "y\\|z"
    assert plan.clocks == {"TURNKEEP_LEASE_S": "8"}


def test_each_fault_comes_once_however_short_the_run() -> None:
    plan = plan_of("--minutes", "0.1", "--fault", "a=x", "--fault", "b=y")
    assert [fault.id for fault in plan.faults] == ["a", "b"]
    assert plan.interval_s * 2 + 2 * plan.clean_s == pytest.approx(6)


def test_without_a_fault_there_is_load_for_the_whole_time() -> None:
    plan = plan_of("--minutes", "1")
    assert (plan.faults, 2 * plan.clean_s) == ([], 60)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--url is needed"),
        ((*URL, "--api-key", "k"), "at least twice"),
        ((*URL, "--fault", "worker"), "not NAME=COMMAND"),
        ((*URL, "--fault", "worker= "), "not NAME=COMMAND"),
        ((*URL, "--minutes", "0"), "above 0"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        against.main(list(arguments))
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://h:1", "h:1", "http://h:1/api", "redis://h"])
async def test_an_api_is_host_and_port(url: str) -> None:
    with pytest.raises(Refused, match="without TLS"):
        async with reach([url], SETTINGS, ""):
            pass


async def test_an_api_that_is_not_there_is_told() -> None:
    async with reach(["http://127.0.0.1:9"], SETTINGS, "") as foreign:
        with pytest.raises(Refused, match=r"http://127.0.0.1:9 does not answer"):
            await _require_answer(foreign.apis[0])
