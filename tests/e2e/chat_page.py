"""The page in the browser, as somebody sees and uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from playwright.async_api import Page, Response, Route

from tests.e2e.browser import PAGE, Bundle
from tests.fixtures.waiting import wait_until

PATIENCE_S = 60.0
_READ = """() => [...document.querySelectorAll('article')].map((article) => ({
  id: article.dataset.id, role: article.dataset.role,
  metadata: JSON.parse(article.dataset.metadata ?? 'null'),
  parts: [...article.querySelectorAll('section')].map((section) => ({
    type: section.dataset.type, state: section.dataset.state ?? null,
    call: section.dataset.call ?? null, text: section.firstChild?.textContent ?? '',
    input: JSON.parse(section.dataset.input ?? 'null'),
    output: JSON.parse(section.dataset.output ?? 'null'),
  })),
}))"""


@dataclass(frozen=True)
class Part:
    """One part of a message; `text` is what stands there."""

    type: str
    state: str | None
    call: str | None
    text: str
    input: Any
    output: Any


@dataclass(frozen=True)
class Shown:
    """One message on the page."""

    id: str
    role: str
    metadata: dict[str, Any] | None
    parts: list[Part]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if part.type == "text")

    @property
    def kinds(self) -> list[str]:
        """Types of its parts, steps left out."""
        return [part.type for part in self.parts if part.type != "step-start"]

    @property
    def states(self) -> list[str | None]:
        """Of the same parts."""
        return [part.state for part in self.parts if part.type != "step-start"]

    def part(self, kind: str) -> Part:
        """Its only part of this type."""
        (found,) = [part for part in self.parts if part.type == kind]
        return found

    @property
    def turn_id(self) -> str:
        assert self.metadata is not None
        return str(self.metadata["turnId"])


class ChatPage:
    """A tab on one thread, at the API's own origin: only the page itself comes from here."""

    def __init__(self, page: Page, bundle: Bundle, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.complaints: list[str] = []
        """What the browser's console calls an error."""
        self.answers: list[Response] = []
        self._bundle = bundle
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", lambda answer: self.answers.append(answer))

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    async def serve(self) -> None:
        """Gives the browser the page and its script; all else it asks the API."""

        async def answer(route: Route) -> None:
            if route.request.url.endswith("/e2e/page.js"):
                await route.fulfill(body=self._bundle.script, content_type="text/javascript")
            else:
                html = (PAGE / "index.html").read_bytes()
                await route.fulfill(body=html, content_type="text/html")

        await self.page.route(f"{self.origin}/e2e/**", answer)

    async def open(self, thread_id: str | None = None) -> None:
        """Opens the thread, or a new one."""
        query = f"?thread={thread_id}" if thread_id else ""
        await self.page.goto(f"{self.origin}/e2e/chat{query}")

    @property
    def thread_id(self) -> str:
        return str(self.page.url).partition("thread=")[2]

    # -- what somebody does

    async def sign_in(self, email: str, password: str) -> None:
        await self.page.fill("#sign-in [name=email]", email)
        await self.page.fill("#sign-in [name=password]", password)
        await self.press("Sign in")

    async def send(self, message: str, /, *, files: list[Any] | None = None, **script: Any) -> None:
        """Sends a message to the scripted model, which does as `script` says."""
        await self.instruct(**script)
        await self.page.fill("[name=text]", message)
        if files:
            await self.page.set_input_files("[name=files]", files)
        await self.press("Send")

    async def instruct(self, *, body: dict[str, Any] | None = None, **script: Any) -> None:
        """What goes with the next message, or the next answer anew."""
        asked = {"modelId": "scripted", "settings": {"script": script}, **(body or {})}
        await self.page.fill("[name=body]", orjson.dumps(asked).decode())

    async def press(self, name: str, *, nth: int = 0) -> None:
        await self.page.get_by_role("button", name=name, exact=True).nth(nth).click()

    # -- what somebody sees

    async def messages(self) -> list[Shown]:
        found = await self.page.evaluate(_READ)
        return [
            Shown(m["id"], m["role"], m["metadata"], [Part(**part) for part in m["parts"]])
            for m in found
        ]

    async def answer(self) -> Shown | None:
        """The last message, if it is the assistant's."""
        messages = await self.messages()
        return messages[-1] if messages and messages[-1].role == "assistant" else None

    async def status(self) -> str:
        return str(await self.page.get_attribute("main", "data-status"))

    async def error(self) -> str:
        return str(await self.page.inner_text("#error"))

    async def news(self) -> str:
        """Data parts that came, one a line."""
        return str(await self.page.inner_text("#news"))

    async def until_status(self, wanted: str) -> None:
        async def is_so() -> bool:
            return await self.status() == wanted

        await wait_until(is_so, f"the page is {wanted}", PATIENCE_S)

    async def until_text(self, wanted: str) -> Shown:
        """Waits for an answer with this text in it."""

        async def is_there() -> Shown | None:
            answer = await self.answer()
            return answer if answer and wanted in answer.text else None

        found: Shown = await wait_until(is_there, f"the page shows {wanted!r}", PATIENCE_S)
        return found

    async def until_part(self, kind: str, state: str) -> Shown:
        async def is_there() -> Shown | None:
            answer = await self.answer()
            parts = answer.parts if answer else []
            return answer if any(p.type == kind and p.state == state for p in parts) else None

        found: Shown = await wait_until(is_there, f"the page shows {kind} {state}", PATIENCE_S)
        return found

    async def finished(self) -> Shown:
        """The answer, once the page is ready again: with files it begins after the click."""

        async def is_there() -> Shown | None:
            return await self.answer() if await self.status() == "ready" else None

        found: Shown = await wait_until(is_there, "the page is ready with an answer", PATIENCE_S)
        return found
