"""S18, S19: whatever a file is called and whatever is in it, it is data, and comes back inert."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace

import pytest

from tests.fixtures.documents import docx_bomb, packed, pdf_bomb
from tests.security.conftest import Target, Unharmed
from tests.security.credentials import bearer
from tests.security.routes import FORM
from tests.security.wire import Answer, Request, send

ARTIFACTS = b"/api/v1/artifacts"
NAMES = [
    "../../etc/passwd", "..%2f..%2fetc", "%2e%2e/", "..\\..\\x", "/abs", "C:\\x", ".", "..", "...",
    "CON", "nul.txt", "-rf", "a\u202egpj.exe", "a\u200b\u2066.txt", "\ufeff", "a;b=c", "a'b.txt",
    "x" * 255, "ü" * 255, "x" * 250 + ".html", "a.html", ".htaccess", "~", "$(id)", "`id`", "|id",
    "a\tb", "a\x1b[2Jb", "a\x7f", "<script>", "{{7*7}}", "${jndi:ldap://x}", "%s%n",
    "=cmd|' /C'!A0", "' or 1=1 --", "😀.png", "a.tar.gz", " a ", "\u2028", "a%0d%0aset-cookie: x=y",
]  # fmt: skip
BYTES = {
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "SVG with entities": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>',
    "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
    "HTML behind a comment": b"<!-- x --> \n<html><body onload=alert(1)>",
    "GIF and script": b"GIF89a/*<script>*/=1;alert(1)//",
    "PDF and HTML": b"%PDF-1.7\n<html><script>alert(1)</script>",
    "PDF with JS": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
    "zip slip": packed({"../../../etc/cron.d/x": b"x"}),
    "zip bomb": docx_bomb(100 * 2**20),
    "PDF bomb": pdf_bomb(100 * 2**20),
    "gzip bomb": gzip.compress(bytes(10 * 2**20)),
    "image of 50,000 by 50,000": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xc3P\x00\x00\xc3P",
    "nothing": b"",
    "Windows program": b"MZ\x90\x00",
    "Unix program": b"#!/bin/sh\nid\n",
}
INERT = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
}
_DISPOSITION = re.compile(
    r"attachment; filename=\"(?P<plain>[ !#$&()+,.0-9=@A-Z\[\]^_`a-z{}~-]+)\""
    r"(?:; filename\*=UTF-8''[!#$&+\-.^_`|~0-9A-Za-z%]+)?"
)


async def upload(target: Target, name: str, data: bytes) -> Answer:
    escaped = name.replace('"', "%22").encode()
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="' + escaped + b'"'
    body = head + b"\r\ncontent-type: image/png\r\n\r\n" + data + b"\r\n--x--\r\n"
    request = Request(b"POST", ARTIFACTS + b"/upload", bearer(target.owner.keys.good), body)
    return await send(target.port, request.with_headers(FORM))


async def download(target: Target, artifact_id: str) -> Answer:
    path = ARTIFACTS + b"/" + artifact_id.encode() + b"/content"
    request = Request(b"GET", path, bearer(target.owner.keys.good))
    answer = await send(target.port, request)
    ranged = await send(target.port, request.with_headers((b"range", b"bytes=0-,0-,-1,5-2")))
    assert ranged.told() == answer.told(), "ranges are not served"
    return answer


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_is_data(target: Target, unharmed: Unharmed, name: str) -> None:
    unharmed.rows_changed = True
    answer = await upload(target, name, b"x")
    assert answer.status == 201, answer.body
    kept = answer.json["content"]["original_filename"]
    assert kept == name or name in {"..\\..\\x", "C:\\x"}, "as it was sent"
    served = await download(target, answer.json["id"])
    disposition = served.header("content-disposition") or ""
    match = _DISPOSITION.fullmatch(disposition)
    assert match is not None, disposition
    shown = match["plain"]
    assert not shown.startswith((".", "-", " ")), disposition
    assert ".." not in shown.split("."), disposition
    for forbidden in ("%E2%80%AE", "%E2%81%A6", "%E2%80%8B", "%0A", "%0D", "%2F", "%5C", "%1B"):
        assert forbidden not in disposition.upper()
    assert served.header("set-cookie") is None
    folder = target.product.directory / "objects"
    for path in folder.rglob("*"):
        assert re.fullmatch(r"[0-9a-f-]+", path.name), path


@pytest.mark.parametrize("name", BYTES)
async def test_content_is_inert(target: Target, unharmed: Unharmed, name: str) -> None:
    unharmed.rows_changed = True
    answer = await upload(target, "a.png", BYTES[name])
    assert answer.status == 201, answer.body
    assert answer.json["content"]["mime_type"] != "image/png" or "image" in name
    served = await download(target, answer.json["id"])
    assert (served.status, served.body) == (200, BYTES[name])
    assert (served.header("content-disposition") or "").startswith("attachment; ")
    for header, value in INERT.items():
        assert served.header(header) == value
    place = await target.new_place(target.owner)
    path = f"/api/v1/chat/threads/{place.thread_id}/attachments?artifact_id={answer.json['id']}"
    attach = Request(b"POST", path.encode(), bearer(target.owner.keys.good))
    assert (await send(target.port, attach)).status == 201


async def test_an_upload_that_ends_early_leaves_nothing(target: Target, unharmed: Unharmed) -> None:
    request = Request(
        b"POST", ARTIFACTS + b"/upload", bearer(target.owner.keys.good), b"--x\r\ncontent-"
    ).with_headers(FORM)
    cut = replace(
        request, framing=b"transfer-encoding: chunked\r\n", body=b"5\r\n--x\r\n\r\n0\r\n\r\n"
    )
    assert (await send(target.port, cut)).status == 422
