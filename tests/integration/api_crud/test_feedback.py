"""Feedback: what can be rated, that a second rating replaces the first, and how it gets out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import pytest

from shared.ids import new_id
from shared.service import feedback as feedback_module
from shared.turn.model import Principal
from tests.fixtures.system import Api
from tests.integration.api_crud.conftest import THREADS, AddClient, Client
from tests.integration.api_crud.test_bad_input import check_422
from tests.integration.api_crud.test_threads import TIME, walk

FEEDBACK = "/api/v1/chat/feedback"


@dataclass
class Spoken:
    """A thread in which two turns were answered."""

    id: str
    url: str
    turns: list[str]
    asked: list[str]
    answers: list[str]


@pytest.fixture
async def spoken(client: Client, api: Api, make_turn: Any) -> Spoken:
    return await speak(client, api, make_turn)


async def speak(client: Client, api: Api, make_turn: Any) -> Spoken:
    thread_id = (await client.post(THREADS)).json()["id"]
    who = Principal(client.tenant_id, client.user_id, new_id())
    turns = []
    for _ in range(2):
        turn = await api.submit(make_turn(principal=who, thread=UUID(thread_id)))
        turns.append(await api.cancels.cancel(who, turn.id, "answer"))
    return Spoken(
        thread_id,
        f"{THREADS}/{thread_id}/feedback",
        [str(turn.id) for turn in turns],
        [str(turn.input_message_id) for turn in turns],
        [str(turn.output_message_id) for turn in turns],
    )


async def test_the_turn_is_filled_in(client: Client, spoken: Spoken) -> None:
    made = await client.post(
        spoken.url, json={"rating": "positive", "messageId": spoken.answers[0], "comment": "good"}
    )
    assert made.status_code == 201
    shown = made.json()
    assert TIME.fullmatch(shown["createdAt"])
    assert shown == {
        "id": str(UUID(shown["id"])),
        "threadId": spoken.id,
        "turnId": spoken.turns[0],
        "messageId": spoken.answers[0],
        "rating": "positive",
        "comment": "good",
        "createdBy": str(client.user_id),
        "createdAt": shown["createdAt"],
    }
    again = await client.post(
        spoken.url,
        json={"rating": "negative", "messageId": spoken.answers[0], "turnId": spoken.turns[0]},
    )
    assert again.status_code == 200
    assert again.json() == {**shown, "rating": "negative", "comment": None}
    assert (await client.get(FEEDBACK)).json() == {"items": [again.json()], "nextCursor": None}


async def test_every_target_is_its_own(client: Client, spoken: Spoken) -> None:
    targets: list[dict[str, Any]] = [
        {},
        {"turnId": spoken.turns[0]},
        {"turnId": spoken.turns[1]},
        {"messageId": spoken.answers[0]},
        {"messageId": spoken.answers[1], "turnId": spoken.turns[1]},
    ]
    for status in (201, 200):
        for target in targets:
            made = await client.post(spoken.url, json={"rating": "positive", **target})
            assert made.status_code == status, target
    nulls = {"rating": "negative", "turnId": None, "messageId": None, "comment": None}
    assert (await client.post(spoken.url, json=nulls)).status_code == 200
    assert len((await client.get(FEEDBACK)).json()["items"]) == len(targets)


async def test_targets_that_are_refused(
    client: Client, spoken: Spoken, api: Api, make_turn: Any, add_client: AddClient
) -> None:
    other = await speak(client, api, make_turn)
    stranger = await add_client(client.tenant_id)
    theirs = await speak(stranger, api, make_turn)
    for place in (other, theirs):
        for target, what in (
            ({"messageId": place.answers[0]}, "Message"),
            ({"turnId": place.turns[0]}, "Turn"),
            ({"messageId": str(new_id())}, "Message"),
            ({"turnId": str(new_id())}, "Turn"),
        ):
            refused = await client.post(spoken.url, json={"rating": "positive", **target})
            assert (refused.status_code, refused.json()["detail"]) == (404, f"{what} not found")
    refused = await client.post(theirs.url, json={"rating": "positive"})
    assert (refused.status_code, refused.json()["detail"]) == (404, "Thread not found")
    for target, loc in (
        ({"messageId": spoken.asked[0]}, "messageId"),
        ({"messageId": spoken.answers[0], "turnId": spoken.turns[1]}, "turnId"),
    ):
        refused = await client.post(spoken.url, json={"rating": "positive", **target})
        assert [item["loc"] for item in check_422(refused)] == [["body", loc]]
    assert (await client.get(FEEDBACK)).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "loc", "type_"),
    [
        ({}, "rating", "missing"),
        ({"rating": "good"}, "rating", "literal_error"),
        ({"rating": None}, "rating", "literal_error"),
        ({"rating": "positive", "comment": "c" * 4_001}, "comment", "string_too_long"),
        ({"rating": "positive", "comment": 1}, "comment", "string_type"),
        ({"rating": "positive", "messageId": "x"}, "messageId", "uuid_parsing"),
        ({"rating": "positive", "turnId": 1}, "turnId", "uuid_type"),
        ({"rating": "positive", "createdBy": "x"}, "createdBy", "extra_forbidden"),
    ],
)
async def test_values_that_are_refused(
    client: Client, spoken: Spoken, body: Any, loc: str, type_: str
) -> None:
    (item,) = check_422(await client.post(spoken.url, json=body))
    assert (item["loc"], item["type"]) == (["body", loc], type_)


async def test_the_longest_comment(client: Client, spoken: Spoken) -> None:
    comment = "\U0001f600" * 4_000
    made = await client.post(spoken.url, json={"rating": "positive", "comment": comment})
    assert made.json()["comment"] == comment


async def test_the_list_is_filtered(
    client: Client, spoken: Spoken, api: Api, make_turn: Any, add_client: AddClient
) -> None:
    other = await speak(client, api, make_turn)
    made = []
    for place, rating, target in (
        (spoken, "positive", {"messageId": spoken.answers[0]}),
        (spoken, "negative", {"turnId": spoken.turns[1]}),
        (other, "negative", {}),
    ):
        answered = await client.post(place.url, json={"rating": rating, **target})
        made.append(answered.json())
    stranger = await add_client(client.tenant_id)
    assert (await stranger.get(FEEDBACK)).json()["items"] == []
    middle = made[1]["createdAt"]
    wanted: list[tuple[dict[str, str], list[int]]] = [
        ({}, [2, 1, 0]),
        ({"threadId": spoken.id}, [1, 0]),
        ({"turnId": spoken.turns[0]}, [0]),
        ({"messageId": spoken.answers[0]}, [0]),
        ({"rating": "negative"}, [2, 1]),
        ({"rating": "negative", "threadId": spoken.id}, [1]),
        ({"createdAfter": middle}, [2, 1]),
        ({"createdBefore": middle}, [0]),
        (
            {"createdAfter": middle.replace("Z", "+00:00"), "createdBefore": made[2]["createdAt"]},
            [1],
        ),
        ({"threadId": str(new_id())}, []),
    ]
    for query, expected in wanted:
        for limit in (1, 2, 100):
            found = await walk(client, FEEDBACK, limit=limit, **query)
            assert found == [made[index] for index in expected], query
        exported = await client.get(f"{FEEDBACK}/export", params=query)
        assert exported.headers["content-type"].startswith("application/x-ndjson")
        lines = [orjson.loads(line) for line in exported.content.splitlines()]
        assert lines == [made[index] for index in expected]


@pytest.mark.parametrize(
    ("query", "name", "type_"),
    [
        ("limit=0", "limit", "greater_than_equal"),
        ("limit=101", "limit", "less_than_equal"),
        ("limit=1.5", "limit", "int_parsing"),
        ("limit=true", "limit", "int_parsing"),
        ("threadId=1", "threadId", "uuid_parsing"),
        ("rating=best", "rating", "literal_error"),
        ("createdAfter=yesterday", "createdAfter", "datetime_from_date_parsing"),
        ("createdAfter=2026-01-01T00:00:00", "createdAfter", "timezone_aware"),
        ("cursor=WzEsIjAwIl0", "cursor", "value_error"),
    ],
)
async def test_bad_queries(client: Client, query: str, name: str, type_: str) -> None:
    (item,) = check_422(await client.get(f"{FEEDBACK}?{query}"))
    assert (item["loc"], item["type"]) == (["query", name], type_)


async def test_a_cursor_of_another_list(client: Client, spoken: Spoken) -> None:
    await client.post(THREADS)
    cursor = (await client.get(f"{THREADS}?limit=1")).json()["nextCursor"]
    (item,) = check_422(await client.get(f"{FEEDBACK}?cursor={cursor}"))
    assert item["loc"] == ["query", "cursor"]


async def test_a_deleted_thread_takes_its_feedback_along(client: Client, spoken: Spoken) -> None:
    await client.post(spoken.url, json={"rating": "positive"})
    await client.delete(f"{THREADS}/{spoken.id}")
    assert (await client.get(FEEDBACK)).json()["items"] == []
    assert (await client.get(f"{FEEDBACK}/export")).content == b""
    assert (await client.post(spoken.url, json={"rating": "positive"})).status_code == 404


async def test_an_export_is_read_in_pages(
    client: Client, spoken: Spoken, api: Api, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "EXPORT_PAGE", 7)
    await admin.execute(
        # Several of the same moment: the id decides.
        "insert into feedback (id, tenant_id, user_id, thread_id, turn_id, rating, created_at)"
        " select gen_random_uuid(), $1, $2, $3, gen_random_uuid(), 'positive',"
        " '2026-01-01'::timestamptz + make_interval(secs => n / 10) from generate_series(1, 50) n",
        client.tenant_id, client.user_id, UUID(spoken.id),
    )  # fmt: skip
    sizes = []
    async with client.stream("GET", f"{FEEDBACK}/export") as answered:
        lines = [orjson.loads(line) async for line in answered.aiter_lines()]
    rows = await walk(client, FEEDBACK, limit=9)
    assert lines == rows
    assert len({row["id"] for row in lines}) == 50
    who = Principal(client.tenant_id, client.user_id, new_id())
    service = feedback_module.FeedbackService(api.database)
    async for page in service.export(who, feedback_module.FeedbackFilter()):
        sizes.append(len(page))
    assert sizes == [7] * 7 + [1]


@pytest.mark.parametrize("path", ["", "/export"])
async def test_times_beyond_the_calendar(client: Client, spoken: Spoken, path: str) -> None:
    await client.post(spoken.url, json={"rating": "positive"})
    for name, value in (
        ("createdAfter", "0001-01-01T00:00:00+14:00"),
        ("createdBefore", "9999-12-31T23:59:59-14:00"),
    ):
        refused = await client.get(f"{FEEDBACK}{path}", params={name: value})
        assert [item["loc"] for item in check_422(refused)] == [["query", name]]
    edges = {
        "createdAfter": "0001-01-01T00:00:00-14:00", "createdBefore": "9999-12-31T23:59:59+14:00",
    }  # fmt: skip
    within = await client.get(f"{FEEDBACK}{path}", params=edges)
    assert within.status_code == 200
    assert "positive" in within.text
