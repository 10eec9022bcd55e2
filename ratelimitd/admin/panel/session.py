"""The session of a visitor: a signed cookie that says with which key the visitor signed in.

The role of the key is looked up at each request, so removing a key ends its sessions. The cookie is signed
but not encrypted, so it does not hold the key: only its fingerprint, a name, a CSRF token, and a message for
the next page.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ratelimitd.admin.admin_keys import AdminKeys, Role
from ratelimitd.rollout.revision import EXTERNAL

DEFAULT_AUTHOR = "panel"
"""The author of changes by visitors who gave no name."""

MAX_NAME = 40
MAX_FLASH = 180
"""Both in characters. The whole session must fit in a cookie of 4096 bytes, in any script."""

_KEY, _NAME, _CSRF, _FLASH = "key", "name", "csrf", "flash"


@dataclass(frozen=True, slots=True)
class Visitor:
    """The visitor of a page. `role` is None when not signed in; `csrf` is the token of the page's forms."""

    role: Role | None
    name: str
    csrf: str

    @property
    def may_change(self) -> bool:
        """Whether pages show controls that change something."""
        return self.role is Role.WRITE

    @property
    def author(self) -> str:
        """The author that revisions by this visitor record."""
        return self.name or DEFAULT_AUTHOR


@dataclass(frozen=True, slots=True)
class Flash:
    """A message for the next page. `kind` is `good`, or `warn` when the visitor should follow up."""

    kind: str
    text: str


def visitor_of(request: Request, keys: AdminKeys) -> Visitor:
    """Returns the visitor. The session of a removed key has no role."""
    session: dict[str, Any] = request.session
    fingerprint = session.get(_KEY)
    role = None if fingerprint is None else keys.role_of_fingerprint(fingerprint)
    return Visitor(role, session.get(_NAME, ""), session.get(_CSRF, ""))


def visitor_with_token(request: Request, keys: AdminKeys) -> Visitor:
    """Returns the visitor of the sign-in form. Starts a session if needed, to hold the CSRF token."""
    if not request.session.get(_CSRF):
        request.session[_CSRF] = secrets.token_urlsafe(32)
    return visitor_of(request, keys)


def is_forged(visitor: Visitor, token: str) -> bool:
    """Returns whether a form does not come from this session: its token is missing or different."""
    return not visitor.csrf or not hmac.compare_digest(visitor.csrf.encode(), token.encode())


def start(request: Request, keys: AdminKeys, key: str, name: str) -> None:
    """Signs the visitor in, with a new CSRF token: an attacker may have planted the one before."""
    request.session.clear()
    request.session.update(
        {_KEY: keys.fingerprint(key), _NAME: name, _CSRF: secrets.token_urlsafe(32)},
    )


def end(request: Request) -> None:
    """Signs the visitor out."""
    request.session.clear()


def set_flash(request: Request, text: str, kind: str = "good") -> None:
    """Leaves a message for the next page."""
    request.session[_FLASH] = [kind, text if len(text) <= MAX_FLASH else text[: MAX_FLASH - 1] + "…"]


def take_flash(request: Request) -> Flash | None:
    """Removes and returns the message that the previous page left."""
    found = request.session.pop(_FLASH, None) if "session" in request.scope else None
    return None if found is None else Flash(*found)


def checked_name(name: str) -> str | None:
    """Returns a typed name as one printable line, or None if it is too long or reserved."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in name).split())
    return None if len(plain) > MAX_NAME or plain.casefold() == EXTERNAL else plain
