"""A browser without scripts, and what tests of the panel need to read its pages."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

import httpx

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import DEADLINES, admin_app
from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.control.control import Control
from ratelimitd.settings import load
from ratelimitd.transport.client import check_service

WRITE, READ = "write-key-of-a-test", "read-key-of-a-test"
SETTINGS = load({}, {})
KEYS = AdminKeys((WRITE,), (READ,))
FULL = """\
# a comment
tiers:
  global: {capacity: 500, refill_rate: 50}
  user: {capacity: 100, rate: 300/min, shadow: true}
  user_api: off
routes:
  - {path: /api/orders, cost: 5}
overrides:
  users: {alice: {user: {capacity: 1000, refill_rate: 100}}}
"""

POSTS = (
    "/admin/login",
    "/admin/logout",
    "/admin/limits",
    "/admin/edit",
    "/admin/edit/check",
    "/admin/apply",
    "/admin/restore",
    "/admin/history/1/rollback",
    "/admin/buckets/reset",
)

PAGES = (
    "/admin",
    "/admin/top",
    "/admin/limits",
    "/admin/edit",
    "/admin/history",
    "/admin/history/1",
    "/admin/replicas",
    "/admin/explain?path=/api/orders&user=alice",
    "/admin/buckets?user=alice",
)

CONFIRMATIONS = ("/admin/history/1/rollback", "/admin/buckets/reset?user=alice")


class Browser(httpx.AsyncClient):
    """A browser without scripts: it keeps cookies, follows redirects of forms, and sends the CSRF token."""

    async def submit(self, path: str, on: httpx.Response, **fields: str) -> httpx.Response:
        """Posts a form of the page `on`."""
        return await self.post(path, data={"csrf": token(on), **fields}, follow_redirects=True)

    async def sign_in(self, key: str = WRITE, name: str = "carol") -> httpx.Response:
        """Signs in and returns the page that follows."""
        return await self.submit("/admin/login", await self.get("/admin/login"), key=key, name=name)


def token(page: httpx.Response) -> str:
    """Returns the CSRF token of the forms on a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def expected(page: httpx.Response) -> str:
    """Returns the number of the revision that the form on a page started from."""
    found = re.search(r'name="expected" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


@asynccontextmanager
async def browsing(
    control: Control, keys: AdminKeys = KEYS, deadlines: Deadlines = DEADLINES
) -> AsyncIterator[Browser]:
    """Yields a browser on a new admin service."""
    app = admin_app(control, keys, SETTINGS, check_service, refusal_delay_s=0, deadlines=deadlines)
    async with Browser(transport=httpx.ASGITransport(app), base_url="http://panel.test") as browser:
        yield browser


async def newest(control: Control) -> tuple[int, str]:
    """Returns number and text of the newest revision."""
    revision = (await control.current()).revision
    return revision.number, revision.text


def field_value(page: httpx.Response, name: str) -> str:
    """Returns the value of a field on a page."""
    parser = ParsedPage()
    parser.feed(page.text)
    return parser.values[name]


class ParsedPage(HTMLParser):
    """The tags of a page, and the values of its fields."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.values: dict[str, str] = {}
        self._area: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "input" and found.get("name"):
            self.values[found["name"] or ""] = found.get("value") or ""
        if tag == "textarea":
            self._area = found["name"]

    def handle_data(self, data: str) -> None:
        # A browser ignores the first line end in a textarea.
        if self._area is not None:
            self.values[self._area] = data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None

    def all(self, attribute: str) -> list[str]:
        """Returns every value of an attribute."""
        return [value for _, found in self.tags if (value := found.get(attribute))]
