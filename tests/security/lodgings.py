"""What a user has on each surface: things that colleagues share, and things that are private."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from shared.turn.model import CredentialKind
from tests.acceptance.client import Client
from tests.security.credentials import Keys
from tests.security.routes import CHAT, FORM, Place
from tests.security.surfaces import PRIMARY, TABLES, Ids

_FORM_HEADERS: Final = {name.decode().replace("-", "_"): value.decode() for name, value in (FORM,)}
_ASKED: Final = {"messages": [{"role": "user", "content": "x"}], "stream": True}


@dataclass(frozen=True, slots=True)
class Lodging:
    """What requests of a user on one surface may name."""

    ids: Ids
    """Colleagues may use some of it."""
    private: tuple[Ids, ...]
    """No colleague may, for one reason or another."""


async def lodge(port: int, keys: Keys, place: Place | None, front: str) -> Lodging:
    """Something on this surface.

    `place` is theirs on the primary surface, and private; elsewhere one is made where it is needed.
    """
    chat = Client(port, keys.good)
    match front:
        case "mechamental":
            return await _in_mechamental(port, keys, await _thread_id(chat, place))
        case "kodey":
            client = Client(port, keys.of[CredentialKind.KODEY_SECRET])
            return await _in_kodey(client, await _thread_id(chat, place))
        case "zylon":
            return await _in_zylon(Client(port, keys.of[CredentialKind.ZYLON]))
        case "responses":
            ids = await _in_responses(chat)
        case _:
            assert front == PRIMARY
            assert place is not None
            ids = await _on_primary(chat, place)
    return Lodging(ids, (ids,))


async def _thread_id(client: Client, place: Place | None) -> str:
    """Of a thread that is private, with a message."""
    if place is not None:
        return place.thread_id
    thread_id: str = (await _post(client, f"{CHAT}/threads", {}, 201))["id"]
    asked = {"message": "x", "modelId": "scripted"}
    await _post(client, f"{CHAT}/threads/{thread_id}/turns", asked, 202)
    return thread_id


async def _on_primary(client: Client, place: Place) -> Ids:
    messages = await _get(client, f"{CHAT}/threads/{place.thread_id}/messages")
    return {**asdict(place), "message_id": messages["items"][0]["id"]}


async def _in_mechamental(port: int, keys: Keys, thread_id: str) -> Lodging:
    client = Client(port, keys.of[CredentialKind.MECHAMENTAL])
    org = keys.tenant_id
    names = ("workspace_id", "app_id", "namespace_id", "thread_id")
    shared = {"org_id": org, **{name: f"{name[0]}-{thread_id}" for name in names}}
    default = dict.fromkeys(names[:3], "default")
    private = {"org_id": org, **default, "thread_id": thread_id}
    body = {name: value for name, value in shared.items() if name != "org_id"}
    said = await _post(client, _messages(shared), body | {"role": "user", "content": "x"}, 201)
    listed = await _get(client, _messages(private))
    for ids, message in ((shared, said), (private, listed["messages"][0])):
        ids["message_id"], ids["timestamp"] = message["message_id"], message["created_at"]
    return Lodging(shared, (private,))


def _messages(ids: Ids) -> str:
    (path,) = (
        name.partition(" ")[2]
        for name in TABLES["mechamental"]
        if name.startswith("GET ") and name.endswith("/messages") and "app_id" in name
    )
    return path.format(**ids)


async def _in_kodey(client: Client, thread_id: str) -> Lodging:
    agent = (await _post(client, "/agent", {"name": "A"}, 200))["id"]
    changed = await client.request("PUT", f"/agent/{agent}", {"description": "x"})
    assert changed.status == 200, changed.body
    chat = (await _post(client, "/chat", {"agentId": agent}, 200))["id"]
    ids = {"agent_id": agent, "chat_id": chat}
    return Lodging(ids, (ids | {"chat_id": thread_id},))


async def _in_zylon(client: Client) -> Lodging:
    """A Private thread of the project that all have, and a Public one of a Private project."""
    base = "/api/v1/app"
    project = await _post(client, f"{base}/project", {"name": "x", "visibility": "Private"}, 201)
    form = TABLES["zylon"][f"POST {base}/project/{{project_id}}/artifact"].body
    path = f"{base}/project/{project['id']}/artifact"
    artifact = await _post(client, path, form, 201, **_FORM_HEADERS)
    everybodys = (await _get(client, f"{base}/me"))["default_project_id"]
    found = []
    for project_id, visibility in ((everybodys, "Private"), (project["id"], "Public")):
        made = {"name": "x", "visibility": visibility}
        thread = await _post(client, f"{base}/project/{project_id}/thread", made, 201)
        path = f"{base}/thread/{thread['id']}/interaction"
        interaction = await _post(client, path, {"pgpt": _ASKED}, 201)
        found.append(
            {
                "project_id": project_id,
                "thread_id": thread["id"],
                "artifact_id": artifact["id"],
                "interaction_id": interaction["id"],
            }
        )
    return Lodging(found[1], tuple(found))


async def _in_responses(client: Client) -> Ids:
    asked = {"input": "x", "model": "scripted", "background": True}
    made = await _post(client, "/v1/responses", asked, 200)
    items = await _get(client, f"/v1/responses/{made['id']}/input_items")
    return {
        "response_id": made["id"],
        "conversation_id": made["conversation"]["id"],
        "item_id": items["data"][0]["id"],
    }


async def _post(client: Client, path: str, body: Any, status: int, **headers: str) -> Any:
    answer = await client.post(path, body, **headers)
    assert answer.status == status, (path, answer.status, answer.body)
    return answer.json


async def _get(client: Client, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status == 200, (path, answer.status, answer.body)
    return answer.json
