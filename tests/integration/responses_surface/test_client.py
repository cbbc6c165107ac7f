"""The official client, unmodified, against the product on a port: also over a link that breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response

from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.responses_surface.conftest import Served, scripted


def asked(text: str | None = None, **script: Any) -> dict[str, Any]:
    """Arguments of `create` for a scripted answer."""
    body = scripted(text, **script)
    return {"model": body["model"], "extra_body": {"settings": body["settings"]}}


def texts_of(items: Sequence[Any]) -> list[str]:
    """The first part of each message."""
    return [item.content[0].text for item in items]


async def ended(client: AsyncOpenAI, response_id: str) -> Response:
    """The response once it is neither queued nor in progress, as the guides poll for it."""

    async def look() -> Response | None:
        response = await client.responses.retrieve(response_id)
        return None if response.status in {"queued", "in_progress"} else response

    found: Response = await wait_until(look, "the response has ended")
    return found


async def test_create_waits_and_retrieve_tells_the_same(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    await start_worker()
    made = await client.responses.create(
        input="Hello", instructions="Be kind.", metadata={"a": "b"}, temperature=0.5,
        max_output_tokens=100, **asked("Good morning."),
    )  # fmt: skip
    assert (made.status, made.output_text) == ("completed", "Good morning.")
    assert made.metadata == {"a": "b"}
    assert (made.temperature, made.max_output_tokens) == (0.5, 100)
    assert made.instructions == "Be kind."
    assert made.usage is not None
    assert made.usage.output_tokens == 2
    assert made.completed_at is not None
    assert await client.responses.retrieve(made.id) == made


async def test_background(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    made = await client.responses.create(input="x", background=True, **asked("ok"))
    assert (made.status, made.background, made.output) == ("queued", True, [])
    await start_worker()
    response = await ended(client, made.id)
    assert (response.status, response.output_text) == ("completed", "ok")


@pytest.mark.timeout(90)
async def test_a_background_stream_survives_three_lost_connections(
    served: Served, start_worker: StartWorker
) -> None:
    """The reader comes again with its last number, and is told each event once."""
    await start_worker()
    words = 150
    stream: Any = await served.client.responses.create(
        input="x", background=True, stream=True, **asked(deltas=words, intervalMs=10)
    )
    seen: list[Any] = []
    response_id, losses = "", 0
    while not seen or seen[-1].type != "response.completed":
        if seen:
            stream = await served.client.responses.retrieve(
                response_id, stream=True, starting_after=seen[-1].sequence_number
            )
        try:
            async for event in stream:
                seen.append(event)
                if event.type == "response.created":
                    response_id = event.response.id
                if losses < 3 and len(seen) == 30 * (losses + 1):
                    losses += 1
                    assert served.link.cut() >= 1
        except (openai.APIError, httpx2.TransportError):
            continue
    assert losses == 3
    numbers = [event.sequence_number for event in seen]
    assert numbers == sorted(set(numbers))
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    final = await served.client.responses.retrieve(response_id)
    expected = "".join(f"w{number} " for number in range(words))
    assert "".join(deltas) == final.output_text == seen[-1].response.output_text == expected
    whole = [e async for e in await served.client.responses.retrieve(response_id, stream=True)]
    assert [(e.type, e.sequence_number) for e in whole] == [
        (e.type, e.sequence_number) for e in seen
    ], "told from the beginning it is what was told in pieces"


async def test_the_clients_own_accumulator_takes_the_stream_and_resumes(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    await start_worker()
    tool = {"name": "look", "args": {"at": 1}, "result": {"found": True}}
    wanted = asked("All done.", reasoning="Let me think.", toolCalls=[tool])
    async with client.responses.stream(input="x", background=True, **wanted) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "All done."
    assert [item.type for item in final.output] == ["reasoning", "mcp_call", "message"]
    async with client.responses.stream(
        response_id=final.id, starting_after=events[5].sequence_number
    ) as again:
        rest = [event async for event in again]
    assert [e.sequence_number for e in rest] == [e.sequence_number for e in events[6:]]
    stored = await client.responses.retrieve(final.id)
    assert [item.to_dict()["id"] for item in stored.output] == [
        item.to_dict()["id"] for item in final.output
    ]
    assert stored.output[:2] == final.output[:2]


@pytest.mark.timeout(90)
async def test_an_attempt_that_is_lost_uses_other_numbers(
    served: Served, start_worker: StartWorker
) -> None:
    doomed = await start_worker()
    stream: Any = await served.client.responses.create(
        input="x", background=True, stream=True, **asked(deltas=60, intervalMs=25)
    )
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if len(seen) == 20:
            await doomed.kill()
            await start_worker()
    numbers = [event.sequence_number for event in seen]
    assert numbers == sorted(set(numbers))
    assert [e.type for e in seen].count("response.in_progress") == 2
    expected = "".join(f"w{number} " for number in range(60))
    assert seen[-1].response.output_text == expected
    final = await served.client.responses.retrieve(seen[0].response.id)
    assert final.output_text == expected
    again = await served.client.responses.retrieve(
        final.id, stream=True, starting_after=numbers[10]
    )
    assert [e.sequence_number async for e in again] == numbers[11:]


async def test_a_client_that_leaves_cancels_nothing(
    served: Served, start_worker: StartWorker
) -> None:
    await start_worker()
    stream: Any = await served.client.responses.create(
        input="x", stream=True, **asked(deltas=30, intervalMs=10)
    )
    first = await anext(aiter(stream))
    await stream.close()
    assert (await ended(served.client, first.response.id)).status == "completed"


async def test_cancel_may_be_repeated(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    await start_worker()
    made = await client.responses.create(
        input="x", background=True, **asked(deltas=2000, intervalMs=10)
    )
    cancelled = await client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    again = await client.responses.cancel(made.id)
    assert again == cancelled
    stream = await client.responses.retrieve(made.id, stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    done = await client.responses.create(input="x", **asked("ok"))
    assert (await client.responses.cancel(done.id)).status == "completed"


async def test_responses_go_on_and_fork(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    """The scripted model counts the words it is shown: so it tells what its history is."""
    await start_worker()
    first = await client.responses.create(input="one two", **asked("three"))
    second = await client.responses.create(
        input="four", previous_response_id=first.id, **asked("five")
    )
    assert second.conversation == first.conversation
    assert second.previous_response_id == first.id
    fork = await client.responses.create(
        input="six", previous_response_id=first.id, **asked("seven")
    )
    assert first.conversation is not None
    assert fork.conversation is not None
    assert fork.conversation.id != first.conversation.id
    shown = [r.usage.input_tokens for r in (first, second, fork) if r.usage]
    assert shown == [2, 4, 4], "the fork does not know of the second"
    items = await client.conversations.items.list(fork.conversation.id, order="asc")
    assert texts_of(items.data) == ["one two", "three", "six", "seven"]
    asked_of_fork = await client.responses.input_items.list(fork.id, order="asc")
    assert texts_of(asked_of_fork.data) == ["one two", "three", "six"]


async def test_conversations(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    await start_worker()
    made = await client.conversations.create(
        metadata={"topic": "demo"},
        items=[
            {"type": "message", "role": "system", "content": "Be brief."},
            {"type": "message", "role": "user", "content": "Earlier"},
        ],
    )
    assert await client.conversations.retrieve(made.id) == made
    response = await client.responses.create(input="x", conversation=made.id, **asked("ok"))
    assert response.conversation is not None
    assert response.conversation.id == made.id
    listed = client.conversations.items.list(made.id, limit=1, order="asc")
    assert texts_of([item async for item in listed]) == ["Be brief.", "Earlier", "x", "ok"]
    changed = await client.conversations.update(made.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    deleted = await client.conversations.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_a_deleted_response_is_gone(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    await start_worker()
    first = await client.responses.create(input="secret", **asked("one"))
    second = await client.responses.create(input="y", previous_response_id=first.id, **asked("two"))
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(input="z", previous_response_id=first.id, **asked("no"))
    assert refused.value.code == "previous_response_not_found"
    assert second.conversation is not None
    left = await client.conversations.items.list(second.conversation.id, order="asc")
    assert texts_of(left.data) == ["y", "two"]


async def test_approvals_are_asked_for_and_given(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    await start_worker()
    pay = {"name": "pay", "args": {"euros": 5}, "result": "paid"}
    wanted = asked("Done.", approval={"text": "May I? ", "calls": [pay]})
    made = await client.responses.create(input="x", **wanted)
    request = made.output[-1]
    assert made.status == "completed"
    assert request.type == "mcp_approval_request"
    assert (request.name, request.arguments) == ("pay", '{"euros":5}')
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(input="y", previous_response_id=made.id, **asked("no"))
    decision: Any = {
        "type": "mcp_approval_response", "approval_request_id": request.id, "approve": True,
    }  # fmt: skip
    async with client.responses.stream(
        input=[decision], previous_response_id=made.id, model="scripted"
    ) as stream:
        final = await stream.get_final_response()
    assert final.id == made.id, "the same response goes on"
    assert final.output_text == "May I? Done."
    call = next(item for item in final.output if item.type == "mcp_call")
    assert (call.output, call.status) == ("paid", "completed")
    again = await client.responses.create(
        input=[decision], previous_response_id=made.id, model="scripted"
    )
    assert again.output_text == final.output_text


async def test_items_go_on_after_one_of_a_response(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    """Whose id is not the one that it is listed under."""
    await start_worker()
    conversation = (await client.conversations.create()).id
    call = {"name": "look", "args": {}, "result": "seen"}
    first = await client.responses.create(
        input="one", conversation=conversation, **asked("said", toolCalls=[call])
    )
    await client.responses.create(input="two", conversation=conversation, **asked("again"))
    page = await client.conversations.items.list(
        conversation, after=first.output[-1].id, order="asc"
    )
    assert texts_of(page.data) == ["two", "again"]
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.list(conversation, after="msg_" + "0" * 38)


async def test_a_missing_decision_is_named_as_it_was_asked_for(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    await start_worker()
    pay = {"name": "pay", "args": {}, "result": "paid"}
    wanted = asked("Done.", approval={"text": "May I? ", "calls": [pay, pay]})
    made = await client.responses.create(input="x", **wanted)
    first, second = (item.id for item in made.output if item.type == "mcp_approval_request")
    decision: Any = {
        "type": "mcp_approval_response", "approval_request_id": first, "approve": True,
    }  # fmt: skip
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(
            input=[decision], previous_response_id=made.id, model="scripted"
        )
    assert str(second) in refused.value.message
    assert str(first) not in refused.value.message


async def test_failures_are_told(client: AsyncOpenAI, start_worker: StartWorker) -> None:
    await start_worker()
    response = await client.responses.create(input="x", **asked("abc def", failAfter=1))
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.type) == ("server_error", "model_error")
    limited = await client.responses.create(
        input="x", **asked("abc def", failAfter=1, failWith="content_filter")
    )
    assert limited.status == "incomplete"
    assert limited.incomplete_details is not None
    assert limited.incomplete_details.reason == "content_filter"


async def test_errors_are_the_clients_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(input="x", model="gpt-99")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("resp_" + "0" * 32)
    with pytest.raises(openai.AuthenticationError) as unknown:
        await client.with_options(api_key="vai_sk_wrong").responses.retrieve("resp_1")
    assert unknown.value.code == "invalid_api_key"


async def test_an_idempotency_key_makes_one_response(
    client: AsyncOpenAI, start_worker: StartWorker
) -> None:
    await start_worker()
    headers = {"Idempotency-Key": "once"}
    made = [
        await client.responses.create(
            input="x", background=True, extra_headers=headers, **asked("ok")
        )
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(
            input="other", background=True, extra_headers=headers, **asked("ok")
        )
    assert refused.value.code == "idempotency_key_reused"
