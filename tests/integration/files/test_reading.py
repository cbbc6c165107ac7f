"""Reading text from files: what comes out, and what files that are made to harm are told."""

from __future__ import annotations

import io
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.settings import Settings
from tests.fixtures.documents import (
    docx,
    docx_bomb,
    encrypted_pdf,
    lying_docx_bomb,
    packed,
    pdf,
    pdf_bomb,
    pdf_page,
)
from tests.fixtures.waiting import wait_until
from worker.ingestion.reading import ReadingFailed, read_text

MIB = 2**20


def limits(**changed: Any) -> Settings:
    known: dict[str, Any] = {"database_url": "x", "redis_url": "x", "key_pepper": "p" * 16}
    return Settings(**known | changed)


async def read(data: bytes, reader: str, **changed: Any) -> str:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        reading = await read_text(file, reader, limits(**changed))
    assert reading.is_cut is False
    return reading.text


HTML = (
    b"<!doctype html><html><head><title>Title</title><style>p{}</style></head><body>"
    b"<script>alert(1)</script><h1>Head &amp; more</h1><p>One <b>two</b>  three.</p>"
    b"<ul><li>a<li>b</ul></body></html>"
)


@pytest.mark.parametrize(
    ("data", "reader", "text"),
    [
        ("grüß\n".encode(), "text", "grüß\n"),
        (b"\xef\xbb\xbfa,b\n1,2\n", "text", "a,b\n1,2\n"),
        ("grüß".encode("utf-16"), "text", "grüß"),
        (b"", "text", ""),
        (b"broken \xff\xfe later", "text", "broken \ufffd\ufffd later"),
        (HTML, "html", "Title Head & more One two three. a b"),
        (pdf([pdf_page("One (1)"), pdf_page("Two")]), "pdf", "One (1) Two"),
        (
            docx(b"<w:p><w:r><w:t>One</w:t><w:tab/><w:t>two &amp; </w:t></w:r></w:p><w:p/>"),
            "docx",
            "One two &",
        ),
    ],
)
async def test_text_is_read(data: bytes, reader: str, text: str) -> None:
    assert await read(data, reader) == text or (await read(data, reader)).split() == text.split()


async def test_a_long_text_is_cut_between_characters() -> None:
    with tempfile.TemporaryFile() as file:
        file.write("ü".encode() * 10_000)
        file.seek(0)
        reading = await read_text(file, "text", limits(extracted_text_max_bytes=1025))
    assert (reading.text, reading.is_cut) == ("ü" * 512, True)


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
HARMFUL: dict[str, tuple[bytes, str, str]] = {
    "a PDF that is none": (b"%PDF-1.7 nothing", "pdf", "broken"),
    "an empty PDF": (b"", "pdf", "broken"),
    "an encrypted PDF": (encrypted_pdf(), "pdf", "encrypted"),
    "a page that unpacks to 100 MiB": (pdf_bomb(100 * MIB), "pdf", "too_large"),
    "a zip that is none": (b"PK\x03\x04word/document.xml", "docx", "broken"),
    "a document without its text": (packed({"word/x.xml": b"x"}), "docx", "broken"),
    "a document that is no XML": (packed({"word/document.xml": b"<a>"}), "docx", "broken"),
    "a document with entities": (docx(b"<w:p>&b;</w:p>", ENTITIES), "docx", "broken"),
    "a document of 100 MiB": (docx_bomb(100 * MIB), "docx", "too_large"),
    "one that lies about it": (lying_docx_bomb(100 * MIB), "docx", "broken"),
    "a directory outside": (packed({"../../word/document.xml": b"x"}), "docx", "broken"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
async def test_a_harmful_file_is_told_what_it_is(name: str) -> None:
    data, reader, reason = HARMFUL[name]
    began = time.monotonic()
    with pytest.raises(ReadingFailed) as failed:
        await read(data, reader)
    assert (failed.value.reason, failed.value.is_final) == (reason, True)
    assert time.monotonic() - began < 15


def harmful_program(tmp_path: Path, body: str) -> Path:
    """The reading program with a reader that does this, in place of the one for text."""
    from worker.ingestion import read_text as program

    source = Path(program.__file__).read_text()
    path = tmp_path / "program.py"
    path.write_text(
        source.replace("READERS = {", f"def harm(file, text, _):\n    {body}\n\nREADERS = {{", 1)
        .replace('"text": read_text', '"text": harm', 1)
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("body", "reason", "is_final"),
    [
        ("x = bytes(10**9)", "memory", True),
        ("while True: pass", "cpu", True),
        ("time.sleep(60)", "timeout", False),
        ("os._exit(3)", "killed", False),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed", False),
        ("print('x' * 10_000_000); os._exit(0)", "broken", True),
        ("print('not json'); sys.stdout.flush(); os._exit(0)", "broken", True),
        ("read_text(file, text, _); raise RecursionError", "broken", True),
        ("os.write(os.open('written', os.O_CREAT | os.O_WRONLY), b'x')", "broken", True),
        ("raise UnreadableError(str(sorted({*os.environ} - {'LC_CTYPE'})))", "[]", True),
    ],
)  # fmt: skip
async def test_what_a_reader_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str, is_final: bool
) -> None:
    monkeypatch.setattr("worker.ingestion.reading._PROGRAM", harmful_program(tmp_path, body))
    monkeypatch.chdir(tmp_path)
    before = len(psutil.Process().children())
    patience_s = 3 if reason == "timeout" else 25
    with pytest.raises(ReadingFailed) as failed:
        await read(b"x", "text", ingestion_cpu_s=1, ingestion_timeout_s=patience_s)
    assert (failed.value.reason, failed.value.is_final) == (reason, is_final)
    assert len(psutil.Process().children()) == before, "nobody is left"


async def test_a_reader_dies_with_its_worker(tmp_path: Path) -> None:
    import asyncio
    import sys

    program = harmful_program(tmp_path, "time.sleep(60)")
    script = (
        "import subprocess, sys, os, time\n"
        f"p = subprocess.Popen([sys.executable, '-I', {str(program)!r}, 'text', '1024',"
        " str(2**29), '60', str(os.getpid())], stdin=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    await wait_until(lambda: child.nice() == 10, "it has given up its powers")
    parent.kill()
    await parent.wait()
    await wait_until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "it is gone", 5
    )


async def test_ours_grows_by_little() -> None:
    """The bomb goes off elsewhere."""
    data = docx_bomb(100 * MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ReadingFailed):
        await read(data, "docx")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 * 1024, f"{grown} KiB"


def test_the_bombs_are_small() -> None:
    assert len(docx_bomb(100 * MIB)) < MIB
    assert io.BytesIO(pdf_bomb(100 * MIB)).getbuffer().nbytes < MIB
