"""A program: reads the text of the file that is its standard input, and writes it.

    python -I read_text.py READER MAX_TEXT_BYTES MEMORY_BYTES CPU_S PARENT_PID

The file is a stranger's and may be made to harm its reader, so this process has nothing to lose: no
environment, no network where the system can take it away, no file to write, bounded memory and
processor time, and it dies with its parent. Output: one line of JSON, `{"reason", "isCut"}`, then
the text in UTF-8. `reason` is null, or one word for why there is no text.

Imports nothing of the product: it starts in the time that the interpreter and one reader take.
"""

import codecs
import ctypes
import json
import os
import resource
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import IO, Any
from xml.parsers import expat

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PIECE_BYTES = 65_536
MAX_UNPACKED_BYTES = 64 * 1_048_576
MAX_RATIO = 200
"""An unpacked document that is so many times its packed size is none that somebody wrote."""
SOFT_CPU_SHARE = 0.8
"""After so much of the processor time, what was read so far must do."""


class UnreadableError(Exception):
    """There is no text; the message is one word."""


class FullError(Exception):
    """As much text as may be kept has been read."""


class Text:
    """What has been read, at most `max_bytes` of it."""

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes = max_bytes
        self.pieces: list[bytes] = []
        self.is_cut = False

    def add(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        if len(data) > self._left_bytes:
            # Cut between characters.
            self.pieces.append(data[: self._left_bytes].decode("utf-8", "ignore").encode())
            self.is_cut = True
            raise FullError
        self._left_bytes -= len(data)
        self.pieces.append(data)


def confine(memory_bytes: int, cpu_s: int, parent_pid: int) -> None:
    """Gives up what is not needed. Before anything of the file is looked at."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)  # not everywhere allowed
        # Last: the kernel forgets the request when credentials change.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the request was in place
        sys.exit(1)
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def decode(file: IO[bytes]) -> Iterator[str]:
    """The characters of a text file."""
    head = file.read(PIECE_BYTES)
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if is_utf16 else "utf-8-sig")("replace")
    piece = head
    while piece:
        yield decoder.decode(piece)
        piece = file.read(PIECE_BYTES)
    yield decoder.decode(b"", final=True)


def read_text(file: IO[bytes], text: Text, _: float) -> None:
    for piece in decode(file):
        text.add(piece)


class PageReader(HTMLParser):
    """The text of a page as a reader sees it, roughly."""

    UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
    BLOCKS = frozenset(
        {
            "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure",
            "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main",
            "nav", "ol", "p", "pre", "section", "table", "title", "tr", "ul",
        }
    )  # fmt: skip

    def __init__(self, text: Text) -> None:
        super().__init__(convert_charrefs=True)
        self._text = text
        self._unseen = 0
        self._is_fresh = True

    def handle_starttag(self, tag: str, _: Any) -> None:
        self._unseen += tag in self.UNSEEN
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.UNSEEN and self._unseen:
            self._unseen -= 1
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        words = " ".join(data.split())
        if words:
            space = " " if not self._is_fresh and data[0].isspace() else ""
            self._text.add(space + words + (" " if data[-1].isspace() else ""))
            self._is_fresh = data[-1].isspace()
        elif data and not self._is_fresh:
            self._text.add(" ")
            self._is_fresh = True

    def _break(self, tag: str) -> None:
        if tag in self.BLOCKS and not self._unseen:
            self._text.add("\n")
            self._is_fresh = True


def read_html(file: IO[bytes], text: Text, _: float) -> None:
    page = PageReader(text)
    for piece in decode(file):
        page.feed(piece)
    page.close()


def read_pdf(file: IO[bytes], text: Text, cpu_deadline_s: float) -> None:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, LimitReachedError, PyPdfError, WrongPasswordError

    try:
        document = PdfReader(file)
        if document.is_encrypted and not document.decrypt(""):
            raise UnreadableError("encrypted")
        for page in document.pages:
            if time.process_time() > cpu_deadline_s:
                text.is_cut = True
                return
            text.add(page.extract_text() + "\n\n")
    except (DependencyError, WrongPasswordError) as error:
        raise UnreadableError("encrypted") from error
    except LimitReachedError as error:
        raise UnreadableError("too_large") from error
    except PyPdfError as error:
        raise UnreadableError("broken") from error


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main|"


def read_docx(file: IO[bytes], text: Text, _: float) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo("word/document.xml")
            if entry.flag_bits & 1:
                raise UnreadableError("encrypted")
            is_bomb = entry.file_size > MAX_RATIO * max(entry.compress_size, PIECE_BYTES)
            if is_bomb or entry.file_size > MAX_UNPACKED_BYTES:
                raise UnreadableError("too_large")
            with archive.open(entry) as document:
                _read_word(document, text)
    except (zipfile.BadZipFile, KeyError, expat.ExpatError, NotImplementedError) as error:
        raise UnreadableError("broken") from error


def _read_word(document: IO[bytes], text: Text) -> None:
    parser = WordParser(text).parser
    size = 0
    while piece := document.read(PIECE_BYTES):
        size += len(piece)
        if size > MAX_UNPACKED_BYTES:  # whatever the entry's head says
            raise UnreadableError("too_large")
        parser.Parse(piece)
    parser.Parse(b"", True)


class WordParser:
    """Text runs, paragraphs, tabs and breaks. A document of Word has no DTD, so no entities."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._within = 0
        self.parser = expat.ParserCreate(namespace_separator="|")
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._say
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _begin(self, name: str, _: Any) -> None:
        self._within += name == WORD + "t"
        if name == WORD + "tab":
            self._text.add("\t")
        elif name in (WORD + "br", WORD + "cr"):
            self._text.add("\n")

    def _end(self, name: str) -> None:
        self._within -= name == WORD + "t"
        if name == WORD + "p":
            self._text.add("\n")

    def _say(self, data: str) -> None:
        if self._within:
            self._text.add(data)

    def _refuse(self, *_: Any) -> None:
        raise UnreadableError("broken")


READERS = {"text": read_text, "html": read_html, "pdf": read_pdf, "docx": read_docx}


def read(reader: str, text: Text, cpu_deadline_s: float) -> str | None:
    """Fills `text`; the reason, if there is none."""
    try:
        READERS[reader](sys.stdin.buffer, text, cpu_deadline_s)
    except FullError:
        return None
    except UnreadableError as error:
        return str(error)
    except MemoryError:
        text.pieces.clear()
        return "memory"
    except Exception:  # noqa: BLE001 - a stranger's file in a stranger's reader: anything may come
        return "broken"
    return None


def main() -> None:
    reader, max_text_bytes, memory_bytes, cpu_s, parent_pid = sys.argv[1:]
    confine(int(memory_bytes), int(cpu_s), int(parent_pid))
    text = Text(int(max_text_bytes))
    reason = read(reader, text, int(cpu_s) * SOFT_CPU_SHARE)
    out = sys.stdout.buffer
    out.write(json.dumps({"reason": reason, "isCut": text.is_cut}).encode() + b"\n")
    if reason is None:
        out.writelines(text.pieces)
    out.flush()


if __name__ == "__main__":
    main()
