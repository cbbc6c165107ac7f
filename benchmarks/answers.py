"""What is asked of a system and what a right answer is: the same words for every load client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """A right answer: its status, every delta in order and nothing between, then the end.

    `marker` stands in front of each delta's text and nowhere else in a body.
    """

    status: int = 200
    marker: str = ""
    deltas: tuple[str, ...] = ()
    end: str = ""

    def find_fault(self, status: int, body: bytes) -> str | None:
        """The first thing wrong with an answer; None when it is right."""
        if status != self.status:
            return f"status {status}"
        place, marker = 0, self.marker.encode()
        for text in self.deltas:
            found = body.find(marker, place)
            if found < 0:
                return "deltas missing"
            place = found + len(marker)
            if not body.startswith(text.encode(), place):
                is_short = body.count(marker) < len(self.deltas)
                return "deltas missing" if is_short else "deltas out of order"
        if self.deltas and body.find(marker, place) >= 0:
            return "deltas repeated"
        if body.find(self.end.encode(), place) < 0:
            return "no end"
        return None


@dataclass(frozen=True)
class Ask:
    """A request in pieces, so that a load client can make each one its own at little cost.

    One of `ids` goes between `path` and `path_tail`, a unique name between `body` and `body_tail`;
    a body without a tail is sent as it is.
    """

    method: str
    path: str
    answer: Answer = field(default_factory=Answer)
    ids: tuple[str, ...] = ()
    path_tail: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    body_tail: str = ""

    def head_lines(self) -> str:
        """Every header but the length of the body."""
        lines = ["host: 127.0.0.1", *(f"{name}: {value}" for name, value in self.headers)]
        if self.body:
            lines.append("content-type: application/json")
        return "".join(f"{line}\r\n" for line in lines)

    def render(self, number: int, prefix: str) -> bytes:
        """The request number `number` of a run named `prefix`."""
        path = self.path
        if self.ids:
            path += self.ids[number % len(self.ids)] + self.path_tail
        body = f"{self.body}{prefix}-{number}{self.body_tail}" if self.body_tail else self.body
        head = f"{self.method} {path} HTTP/1.1\r\n{self.head_lines()}"
        if body:
            head += f"content-length: {len(body)}\r\n"
        return f"{head}\r\n{body}".encode()
