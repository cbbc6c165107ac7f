"""Artifacts: made, uploaded, listed, read; the tenant's, and nobody else's."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.files.conftest import ARTIFACTS, Upload

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


async def create(user: User, **body: Any) -> httpx.Response:
    return await user.post(ARTIFACTS, json=body)


async def test_a_value_and_a_text_are_kept_as_they_are(user: User) -> None:
    run = str(new_id())
    value = {"a": [1, None, 2.5, {"ü": True}], "b": ""}
    made = (await create(user, kind="json", content=value, title="T", actionRunId=run)).json()
    assert made["content"] == {
        "kind": "json", "storage": "inline", "mime_type": "application/json", "data": value,
        "size_bytes": made["content"]["size_bytes"],
    }  # fmt: skip
    assert (made["title"], made["storageType"], made["actionRunId"]) == ("T", "inline", run)
    said = await create(user, kind="text", content="grüß\n")
    assert said.status_code == 201
    text = said.json()
    assert text["content"] == {
        "kind": "text", "storage": "inline", "mime_type": "text/plain; charset=utf-8",
        "text": "grüß\n", "size_bytes": 7,
    }  # fmt: skip
    assert text["actionRunId"] is None
    for artifact in (made, text):
        assert (await user.get(f"{ARTIFACTS}/{artifact['id']}")).json() == artifact
    assert said.headers["location"] == f"/api/v1/artifacts/{text['id']}"


@pytest.mark.parametrize(
    ("body", "loc", "type_"),
    [
        ({}, ["body", "kind"], "missing"),
        ({"kind": "picture"}, ["body", "kind"], "literal_error"),
        ({"kind": "file", "content": "x"}, ["body", "kind"], "value_error"),
        ({"kind": "text"}, ["body", "content"], "missing"),
        ({"kind": "text", "content": {"a": 1}}, ["body", "content"], "string_type"),
        ({"kind": "json", "actionRunId": "x"}, ["body", "actionRunId"], "uuid_parsing"),
        ({"kind": "json", "title": "x" * 256}, ["body", "title"], "string_too_long"),
    ],
)  # fmt: skip
async def test_what_is_no_artifact(
    user: User, body: dict[str, Any], loc: list[str], type_: str
) -> None:
    answered = await create(user, **body)
    assert answered.status_code == 422
    (item,) = answered.json()["detail"]
    assert (item["loc"], item["type"], set(item)) == (loc, type_, {"loc", "msg", "type"})


async def test_an_upload_is_what_its_bytes_are(user: User, upload: Upload) -> None:
    made = await upload(PNG, "../../harmless.txt")
    digest = hashlib.sha256(PNG).hexdigest()
    assert made["kind"] == "file"
    assert made["storageType"] == "s3"
    assert made["content"] == {
        "kind": "file", "storage": "s3", "mime_type": "image/png", "size_bytes": len(PNG),
        "bucket": "artifacts", "key": digest, "etag": digest,
        "original_filename": "../../harmless.txt",
    }  # fmt: skip
    answered = await user.get(f"{ARTIFACTS}/{made['id']}/content")
    assert answered.content == PNG
    headers = answered.headers
    assert headers["content-type"] == "image/png"
    assert headers["content-length"] == str(len(PNG))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["content-disposition"] == 'attachment; filename="harmless.txt"'
    assert headers["etag"] == f'"{digest}"'
    known = {"if-none-match": headers["etag"]}
    again = await user.get(f"{ARTIFACTS}/{made['id']}/content", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    head = await user.request("HEAD", f"{ARTIFACTS}/{made['id']}/content")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_large_file_comes_back_whole(user: User, upload: Upload) -> None:
    """Over many pieces of the body, of the disk and of the answer."""
    data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(150_000))
    made = await upload(data, "large.bin")
    assert (await user.get(f"{ARTIFACTS}/{made['id']}/content")).content == data


async def test_a_tenant_stores_a_content_once(
    user: User, add_user: AddUser, upload: Upload, objects: Callable[[], list[Path]]
) -> None:
    colleague, stranger = await add_user(user.tenant_id), await add_user()
    first = await upload(PNG, "a.png")
    second = await upload(PNG, "b.png", by=colleague)
    assert first["id"] != second["id"]
    assert len(objects()) == 1
    await upload(PNG, "c.png", by=stranger)
    assert len(objects()) == 2, "nobody learns from the store what others have"


async def test_who_uploads_the_same_at_once_leaves_one_object(
    user: User, upload: Upload, objects: Callable[[], list[Path]]
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(upload(PNG, f"{n}.png")) for n in range(6)]
    for task in tasks:
        content = await user.get(f"{ARTIFACTS}/{task.result()['id']}/content")
        assert content.content == PNG
    assert len(objects()) == 1


async def test_artifacts_are_the_tenants(user: User, add_user: AddUser, upload: Upload) -> None:
    made = await upload(b"hello")
    colleague, stranger = await add_user(user.tenant_id), await add_user()
    path = f"{ARTIFACTS}/{made['id']}"
    for suffix in ("", "/content"):
        assert (await colleague.get(path + suffix)).status_code == 200
        foreign = await stranger.get(path + suffix)
        unknown = await stranger.get(f"{ARTIFACTS}/{new_id()}{suffix}")
        assert foreign.status_code == 404
        assert foreign.json()["detail"] == "Artifact not found"
        assert foreign.content == unknown.content
    assert (await colleague.get(ARTIFACTS)).json()["total"] == 1
    assert (await stranger.get(ARTIFACTS)).json()["total"] == 0


async def test_the_list(user: User, upload: Upload) -> None:
    run = str(new_id())
    ids = [(await upload(b"%d" % n))["id"] for n in range(3)]
    long_text = (await create(user, kind="text", content="x" * 20_000)).json()
    ids.append(long_text["id"])
    ids.append((await create(user, kind="json", content=[], actionRunId=run)).json()["id"])
    ids.reverse()

    async def listed(query: str = "") -> dict[str, Any]:
        page: dict[str, Any] = (await user.get(ARTIFACTS + query)).json()
        return page

    page = await listed()
    assert [artifact["id"] for artifact in page["artifacts"]] == ids
    assert {name: page[name] for name in page if name != "artifacts"} == {
        "hasNext": False, "limit": 20, "offset": 0, "total": 5,
    }  # fmt: skip
    assert page["artifacts"][1]["content"]["text"] is None, "too long for a list"
    assert page["artifacts"][1]["content"]["size_bytes"] == 20_000
    page = await listed("?limit=2&offset=1")
    assert [artifact["id"] for artifact in page["artifacts"]] == ids[1:3]
    assert (page["hasNext"], page["total"]) == (True, 5)
    page = await listed("?offset=9")
    assert (page["artifacts"], page["hasNext"], page["total"]) == ([], False, 5)
    assert [a["id"] for a in (await listed(f"?action_run_id={run}"))["artifacts"]] == ids[:1]
    page = await listed("?kind=file&limit=2")
    assert [artifact["id"] for artifact in page["artifacts"]] == ids[2:4]
    assert (page["hasNext"], page["total"]) == (True, 3)
    assert (await listed(f"?kind=json&action_run_id={run}"))["total"] == 1
    assert (await listed(f"?kind=text&action_run_id={run}"))["total"] == 0


async def test_the_count_is_right_whoever_makes_artifacts_at_once(
    user: User, add_user: AddUser, upload: Upload, admin: Any
) -> None:
    stranger = await add_user()
    thread = await user.thread()
    files = [{"type": "file", "url": f"data:text/plain,{n}", "filename": "a.txt"} for n in range(3)]
    said = {"messages": [{"role": "user", "parts": files}], "modelId": "scripted"}
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(upload(b"same", "a.txt"))
            group.create_task(upload(b"%d" % number, "a.txt"))
            group.create_task(create(user, kind="text", content="x"))
            group.create_task(user.post(f"/threads/{thread}/turns", json=said))
        group.create_task(upload(b"theirs", by=stranger))
    refused = await user.post(f"{ARTIFACTS}/upload", files={"no": ("a.txt", b"x")})
    assert refused.status_code == 422
    rows = await admin.fetch(
        "select tenant_id, kind, count(*)::integer as made from artifacts group by 1, 2"
    )
    made = {(row["tenant_id"], row["kind"]): row["made"] for row in rows}
    assert made.keys() == {
        (user.tenant_id, "file"), (user.tenant_id, "text"), (stranger.tenant_id, "file"),
    }  # fmt: skip
    for who in (user, stranger):
        for kind in ("file", "text", "json"):
            listed = (await who.get(f"{ARTIFACTS}?kind={kind}")).json()
            assert listed["total"] == made.get((who.tenant_id, kind), 0)
            assert len(listed["artifacts"]) == min(listed["total"], 20)
    total = made[user.tenant_id, "file"] + made[user.tenant_id, "text"]
    assert (await user.get(ARTIFACTS)).json()["total"] == total
    await admin.execute("delete from artifacts where kind = 'text'")
    assert (await user.get(ARTIFACTS)).json()["total"] == made[user.tenant_id, "file"]


# -- refusals leave nothing


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


def part(head: bytes, data: bytes = b"y") -> bytes:
    return b"content-disposition: form-data; " + head + b"\r\n\r\n" + data


FILE = part(b'name="file"; filename="a.txt"')
BAD_FORMS: dict[str, tuple[bytes, list[str]]] = {
    "nothing": (b"", ["body"]),
    "no file": (form(part(b'name="title"')), ["body", "file"]),
    "two files": (form(FILE, FILE), ["body", "file"]),
    "two titles": (form(FILE, part(b'name="title"'), part(b'name="title"')), ["body", "title"]),
    "long title": (form(FILE, part(b'name="title"', b"t" * 256)), ["body", "title"]),
    "title that is no text": (form(FILE, part(b'name="title"', b"\xff")), ["body", "title"]),
    "title with a NUL": (form(FILE, part(b'name="title"', b"a\0b")), ["body", "title"]),
    "endless field": (form(FILE, part(b'name="x"', b"t" * 5000)), ["body"]),
    "many parts": (form(FILE, *[part(b'name="%d"' % n) for n in range(9)]), ["body"]),
    "many headers": (form(b"a: b\r\n" * 20 + FILE), ["body"]),
    "long header": (form(b"a: " + b"b" * 5000 + b"\r\n" + FILE), ["body"]),
    "no name": (form(part(b'filename="a"')), ["body"]),
    "no disposition": (form(b"a: b\r\n\r\ny"), ["body"]),
    "two dispositions": (form(b"content-disposition: form-data; name=a\r\n" + FILE), ["body"]),
    "cut off": (form(FILE, end=b""), ["body"]),
    "no boundary": (b"y" * 100, ["body"]),
    "name that is no text": (form(part(b'name="file"; filename="\xff"')), ["body", "file"]),
    "name with a NUL": (form(part(b'name="file"; filename="a\0.png"')), ["body", "file"]),
    "name of 5 KB": (form(part(b'name="file"; filename="' + b"n" * 5000 + b'"')), ["body"]),
    "long name": (form(part(b'name="file"; filename="' + b"n" * 256 + b'"')), ["body", "file"]),
}


@pytest.mark.parametrize("name", BAD_FORMS)
async def test_a_bad_form_leaves_nothing(
    user: User, objects: Callable[[], list[Path]], name: str
) -> None:
    data, loc = BAD_FORMS[name]
    typed = {"content-type": "multipart/form-data; boundary=x"}
    answered = await user.post(f"{ARTIFACTS}/upload", content=data, headers=typed)
    assert answered.status_code == 422, answered.text
    assert answered.json()["detail"][0]["loc"] == loc
    assert (await user.get(ARTIFACTS)).json()["total"] == 0
    assert objects() == []


@pytest.mark.parametrize(
    "typed",
    [
        "application/json", "multipart/form-data", "multipart/form-data; boundary=", "text/plain",
        "multipart/mixed; boundary=x", "multipart/form-data; boundary=" + "x" * 71,
    ],
)  # fmt: skip
async def test_what_is_no_form(user: User, typed: str) -> None:
    answered = await user.post(
        f"{ARTIFACTS}/upload", content=form(FILE), headers={"content-type": typed}
    )
    assert answered.status_code == 415


async def test_a_file_that_is_too_large_leaves_nothing(
    app: Starlette, user: User, upload: Upload, objects: Callable[[], list[Path]]
) -> None:
    most = 100_000
    app.state.settings = app.state.settings.model_copy(update={"max_upload_bytes": most})
    for data in (b"x" * (most + 1), b"x" * (most * 2)):
        # With its length, and in chunks without.
        head = b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n'
        body = head + data + b"\r\n--b--\r\n"

        async def chunks(body: bytes = body) -> Any:
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        for content in (body, chunks()):
            typed = {"content-type": "multipart/form-data; boundary=b"}
            answered = await user.post(f"{ARTIFACTS}/upload", content=content, headers=typed)
            assert answered.status_code == 413, answered.text
    assert objects() == []
    assert (await user.get(ARTIFACTS)).json()["total"] == 0
    assert (await upload(b"x" * most))["content"]["size_bytes"] == most


async def test_a_store_that_is_away_is_told(
    app: Starlette, user: User, upload: Upload, objects: Callable[[], list[Path]]
) -> None:
    made = await upload(PNG)
    (path,) = objects()
    path.unlink()
    answered = await user.get(f"{ARTIFACTS}/{made['id']}/content")
    assert answered.status_code == 503
    assert str(path) not in answered.text
    assert answered.headers["retry-after"]


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_full_disk_is_told(
    user: User, objects: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def make_file(**_: Any) -> Any:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", make_file)
    answered = await user.post(f"{ARTIFACTS}/upload", files={"file": ("a.txt", b"x" * size)})
    assert answered.status_code == 503, answered.text
    assert answered.headers["retry-after"]
    assert "space" not in answered.text
    assert objects() == []
    assert (await user.get(ARTIFACTS)).json()["total"] == 0


async def test_a_disk_that_takes_no_file_is_told(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    answered = await user.post(f"{ARTIFACTS}/upload", files={"file": ("a.txt", b"x")})
    assert answered.status_code == 503
    assert answered.headers["retry-after"]


async def test_transfers_are_bounded(app: Starlette, user: User, upload: Upload) -> None:
    seats = app.state.admission.transfers
    made = await upload(PNG)
    key_id = new_id()
    held = [seats.hold(key_id) for _ in range(64)]
    for seat in held:
        seat.__enter__()
    refused = await user.get(f"{ARTIFACTS}/{made['id']}/content")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    for seat in held:
        seat.__exit__()
    assert (await user.get(f"{ARTIFACTS}/{made['id']}/content")).status_code == 200
    assert (seats.open, seats.by_key) == (0, {}), "every seat was given back"
