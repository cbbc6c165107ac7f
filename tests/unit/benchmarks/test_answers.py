from __future__ import annotations

import pytest

from benchmarks.answers import Answer, Ask
from benchmarks.wrk import lua_table, read_result

RIGHT = b'x "delta":"a " "delta":"b " DONE'
ANSWER = Answer(200, '"delta":"', ('a "', 'b "'), "DONE")


def test_a_whole_answer_in_order_has_no_fault() -> None:
    assert ANSWER.find_fault(200, RIGHT) is None


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, RIGHT, "status 500"),
        (200, b'"delta":"a " DONE', "deltas missing"),
        (200, b'"delta":"b " DONE', "deltas missing"),
        (200, b'"delta":"b " "delta":"a " DONE', "deltas out of order"),
        (200, b'"delta":"a " "delta":"a " "delta":"b " DONE', "deltas out of order"),
        (200, b'"delta":"a " "delta":"b " "delta":"b " DONE', "deltas repeated"),
        (200, b'"delta":"a " "delta":"b " ', "no end"),
        (200, b'DONE "delta":"a " "delta":"b "', "no end"),
    ],
)
def test_faults_are_found(status: int, body: bytes, fault: str) -> None:
    assert ANSWER.find_fault(status, body) == fault


def test_each_request_has_a_name_and_the_next_id() -> None:
    ask = Ask("POST", "/t/", ids=("one", "two"), path_tail="/turns", body='{"k":"', body_tail='"}')
    first, second = ask.render(0, "run"), ask.render(1, "run")
    assert first.startswith(b"POST /t/one/turns HTTP/1.1\r\n")
    assert second.startswith(b"POST /t/two/turns HTTP/1.1\r\n")
    assert second.endswith(b'content-length: 13\r\n\r\n{"k":"run-1"}')


def test_a_request_without_parts_to_fill_is_sent_as_it_is() -> None:
    assert Ask("GET", "/x").render(7, "run") == b"GET /x HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


def test_lua_gets_strings_it_reads_as_json_does() -> None:
    table = lua_table(Ask("GET", '/"\\', ANSWER))
    assert '["path"] = "/\\"\\\\",' in table
    assert 'deltas = { "a \\"", "b \\"" }' in table


def test_broken_connections_count_as_wrong_answers() -> None:
    result = read_result(
        'Running 1s test\n\nRESULT {"done": 10, "took_us": 2000000, "p50_us": 1500,'
        ' "p99_us": 9000, "bad": 1, "fault": "", "broken": 2}\n'
    )
    assert (result.rate, result.p50_ms, result.bad) == (5.0, 1.5, 3)
    assert result.fault == "connection broken"
