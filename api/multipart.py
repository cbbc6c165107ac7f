"""Reads `multipart/form-data` as a stream: one file, on disk as it comes, and a few short fields.

Starlette's own form parser knows no bound on a file, and writes before anybody could refuse.
Format: RFC 7578.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shared.errors import FileTooLarge, InvalidRequest
from shared.files.names import MAX_NAME_CHARS
from shared.files.spool import Spool

MAX_PARTS: Final = 8
MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 4096
MAX_FIELD_BYTES: Final = 4096
IDLE_TIMEOUT_S: Final = 10.0
"""For each piece of the body."""
TOTAL_TIMEOUT_S: Final = 600.0
OVERHEAD_BYTES: Final = 65_536
"""What a body may have beside the file: boundaries, headers, fields."""
_CLOSE: Final = {"connection": "close"}
_BODY: Final = ("body",)
_TYPE: Final = re.compile(r"multipart/form-data\s*;", re.IGNORECASE)


class Form:
    """What was read: the fields by name, and the name of the file that is in the spool."""

    def __init__(self, spool: Spool, file_field: str) -> None:
        self.spool = spool
        self.file_field = file_field
        self.fields: dict[str, str] = {}
        self.has_file = False
        self.file_name: str | None = None

    def require_file(self) -> None:
        """Raises `InvalidRequest` unless there was one."""
        if not self.has_file:
            raise InvalidRequest((*_BODY, self.file_field), "Field required", "missing")


async def read_form(
    request: Request, spool: Spool, max_file_bytes: int, *, file_field: str = "file"
) -> Form:
    """The body; its part `file_field` goes into `spool`.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 not such a form.
        InvalidRequest: not as RFC 7578 wants it, or too much of anything but the file.
    """
    boundary = _boundary(request)
    max_bytes = max_file_bytes + OVERHEAD_BYTES
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large()
    form = Form(spool, file_field)
    reader = _Reader(boundary, form)
    try:
        async with asyncio.timeout(TOTAL_TIMEOUT_S):
            await _feed(request, reader, max_bytes)
    except TimeoutError:
        raise HTTPException(408, "The body did not arrive in time", _CLOSE) from None
    except FileTooLarge:
        raise _too_large() from None
    except FormParserError as error:
        raise _malformed(str(error)) from None
    if not reader.is_complete:
        raise _malformed("the body ends too early")
    return form


async def _feed(request: Request, reader: _Reader, max_bytes: int) -> None:
    size = 0
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        size += len(piece)
        if size > max_bytes:
            raise _too_large()
        reader.write(piece)
        await reader.form.spool.flush()


def _boundary(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "Compressed bodies are not accepted", _CLOSE)
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or _TYPE.match(kinds[0]) is None:
        raise HTTPException(415, "Content-Type must be multipart/form-data", _CLOSE)
    boundary = parse_options_header(kinds[0])[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046 §5.1.1
        raise HTTPException(415, "Content-Type must name a boundary", _CLOSE)
    return boundary


class _Reader:
    """The parser's callbacks: which part is being read, and where its bytes go."""

    def __init__(self, boundary: bytes, form: Form) -> None:
        self.form = form
        self.is_complete = False
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: bytes | None = None
        self._field: str | None = None
        self._value = b""
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        self._parser = MultipartParser(
            boundary, callbacks, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES
        )

    def write(self, data: bytes) -> None:
        if data:
            self._parser.write(data)

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _malformed(f"more than {MAX_PARTS} parts")
        self._disposition = self._field = None
        self._value = b""

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            if self._disposition is not None:
                raise _malformed("a part has two Content-Dispositions")
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part has no name")
        self._field = _text(options[b"name"], "name")
        if self._field == self.form.file_field:
            if self.form.has_file:
                raise InvalidRequest((*_BODY, self._field), "Only one file may be sent")
            self.form.has_file = True
            self.form.file_name = _file_name(options.get(b"filename"), self._field)
        elif self._field in self.form.fields:
            raise InvalidRequest((*_BODY, self._field[:80]), "The field may be given only once")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == self.form.file_field:
            self.form.spool.add(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise _malformed(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._field is not None and self._field != self.form.file_field:
            self.form.fields[self._field] = _text(self._value, self._field[:80])

    def _end(self) -> None:
        self.is_complete = True


def _file_name(raw: bytes | None, field: str) -> str | None:
    """The name as it was sent: not a path of ours, whatever it looks like."""
    name = _text(raw or b"", field)
    if len(name) > MAX_NAME_CHARS:
        msg = f"The file's name should have at most {MAX_NAME_CHARS} characters"
        raise InvalidRequest((*_BODY, field), msg, "string_too_long")
    return name or None


def _text(raw: bytes, field: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest((*_BODY, field), "Text should be UTF-8") from None
    if "\0" in text:
        raise InvalidRequest((*_BODY, field), "The value holds a NUL character")
    return text


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(_BODY, f"Invalid form: {reason}", "multipart_invalid")


def _too_large() -> HTTPException:
    return HTTPException(413, "Request too large", _CLOSE)
