"""Histories outlive their writers: what was flushed is read back, what was torn is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import history as h
from tests.chaos.history import History, HistoryError, decode, encode, read
from tests.chaos.stories import Story

_COMMON = {"began": 1, "at": 2, "tenant": "a", "turn": "t", "outcome": "ok"}
EVERY_KIND: list[h.Event] = [
    h.Accept(**_COMMON, key='k"\n', retry_after_s=1.5, webhook=True),  # type: ignore[arg-type]
    h.Cancel(**_COMMON, status="cancelled", sent_text=True),  # type: ignore[arg-type]
    h.Decide(**_COMMON, decisions="a=yes b=no"),  # type: ignore[arg-type]
    h.Get(**_COMMON, http=200, attempt=3, owner="a"),  # type: ignore[arg-type]
    h.Connect(**_COMMON, chain="c", connection="c.1", after="1-7"),  # type: ignore[arg-type]
    h.Frame(at=3, connection="c.1", type="message.delta", attempt=1, seq=2, text="\u2028é\ufffd"),
    h.Disconnect(at=4, connection="c.1", cause="lost"),
    h.Refusal(began=1, at=2, operation="get", http=503),
    h.Revoke(began=1, at=2, outcome="unknown", credential="k"),
    h.Reply(at=1, link="redis", asked="1", told="2"),
    h.FaultBegun(at=1, fault="f1", name="F03", layer="worker", target="worker-1"),
    h.FaultHealed(at=2, fault="f1"),
    h.Signalled(at=1, pid=42, signal="SIGTERM"),
    h.Append(at=1, outcome="fail", turn="t", attempt=1, first_seq=2, count=3),
    h.Commit(began=1, at=2, outcome="fail", turn="t", attempt=1, status="completed"),
    h.Transition(
        at=1, order=1, turn="t", tenant="a", concurrency_key="k", limit=1, old="", new="pending",
        old_attempt=0, attempt=0,
    ),
    h.Scan(at=1, turns=3),
    h.FinalState(at=1, turn="t", tenant="a", status="failed", text="x", error_code="poison"),
    h.Usage(at=1, turn="t", input_tokens=1, output_tokens=1 << 40),
    h.Delivery(at=1, turn="t", event="turn.ended", webhook_id="w", http=500, is_signed=False),
    h.DeadLetter(at=1, turn="t", event="turn.ended", webhook_id="w"),
    h.Overdue(at=1, turn="t", lapsed_s=0.25),
    h.Residue(at=1, what="streams", found=1, allowed=0.5, detail="x"),
    h.Sample(at=1, subject="redis", figure="used_bytes", value=1e9),
    h.ClockSample(at=1, server_ns=1 << 60, uncertainty_ns=1),
]  # fmt: skip


def test_there_is_one_of_every_kind() -> None:
    assert {type(event) for event in EVERY_KIND} == set(h._KINDS.values())


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: h.Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode(line) == event


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    events = Story(1).tell()
    with History(tmp_path / "a") as history:
        history.extend(events)
    recorded = read(tmp_path / "a")
    assert recorded.events == events
    assert recorded.torn == 0


def test_files_are_read_together(tmp_path: Path) -> None:
    for name, event in zip("ab", EVERY_KIND, strict=False):
        with History(tmp_path / name) as history:
            history.append(event)
    assert read(tmp_path / "a", tmp_path / "b").events == EVERY_KIND[:2]


def test_a_torn_last_line_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with History(path) as history:
        history.extend(EVERY_KIND)
    whole = path.read_bytes()
    for cut in range(1, len(encode(EVERY_KIND[-1]))):
        path.write_bytes(whole[:-cut])
        recorded = read(path)
        # Without its newline alone, the last line still says all it had to.
        assert len(recorded) == len(EVERY_KIND) - (cut > 1)
        assert recorded.torn == (0 if cut in {1, len(encode(EVERY_KIND[-1]))} else 1)


def test_the_next_writer_begins_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(EVERY_KIND[0]) + encode(EVERY_KIND[1])[:20])
    with History(path) as history:
        history.append(EVERY_KIND[2])
    recorded = read(path)
    assert recorded.events == [EVERY_KIND[0], EVERY_KIND[2]]
    assert recorded.torn == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"nothing","at":1}',
        b'{"kind":"usage"}',
        b'{"kind":"usage","at":1,"turn":"t","x":1}',
        b"3",
        b'{"at":1}',
    ],
)
def test_a_whole_line_that_is_no_event_is_an_error(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a").write_bytes(line + b"\n")
    with pytest.raises(HistoryError):
        read(tmp_path / "a")


def test_what_waits_in_memory_is_bounded(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    event = h.Usage(at=1, turn="t" * 1000)
    most_unwritten = 0
    for number in range(1, 500):
        history.append(event)
        written = (tmp_path / "a").stat().st_size
        most_unwritten = max(most_unwritten, number * len(encode(event)) - written)
    assert 0 < most_unwritten < 65_536
    history.flush()
    assert len(read(tmp_path / "a")) == 499
    history.close()
    history.close()


def test_nothing_waits_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 0
    monkeypatch.setattr(h, "now", lambda: moment)
    with History(tmp_path / "a") as history:
        history.append(EVERY_KIND[0])
        moment = 900_000_000
        history.append(EVERY_KIND[1])
        assert len(read(tmp_path / "a")) == 0
        moment = 1_100_000_000
        history.append(EVERY_KIND[2])
        assert len(read(tmp_path / "a")) == 3
