"""Who is signed in. A signed cookie says which key it was; whether that key still counts is asked each time.

The cookie holds no key, and what it holds is no secret: a fingerprint, a name, a token against forged forms,
and one sentence for the next page.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ratelimitd.admin.admin_keys import Keys, Role
from ratelimitd.rollout.revisions import EXTERNAL

NAMELESS = "panel"
"""The author of changes by somebody who gave no name."""

MAX_NAME = 40
MAX_FLASH = 180
"""Characters. All of a session must fit in a cookie, 4096 bytes, in any script."""

_KEY, _NAME, _CSRF, _FLASH = "key", "name", "csrf", "flash"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who asks for a page. `role` is None for one who is not signed in; `csrf` is in each form."""

    role: Role | None
    name: str
    csrf: str

    @property
    def may_change(self) -> bool:
        """Whether buttons that change something are shown."""
        return self.role is Role.WRITE

    @property
    def author(self) -> str:
        """Who a change is recorded for."""
        return self.name or NAMELESS


@dataclass(frozen=True, slots=True)
class Flash:
    """A sentence for the next page. `kind` is `good`, or `warn` when something is left to look at."""

    kind: str
    text: str


def visitor_of(request: Request, keys: Keys) -> Visitor:
    """Who asks. The session of a key that was taken away is that of nobody."""
    session: dict[str, Any] = request.session
    fingerprint = session.get(_KEY)
    role = None if fingerprint is None else keys.role_of_fingerprint(fingerprint)
    return Visitor(role, session.get(_NAME, ""), session.get(_CSRF, ""))


def visitor_for_form(request: Request, keys: Keys) -> Visitor:
    """Who asks for a form before there is a session: it begins here, for its token's sake."""
    if not request.session.get(_CSRF):
        request.session[_CSRF] = secrets.token_urlsafe(32)
    return visitor_of(request, keys)


def is_forged(visitor: Visitor, token: str) -> bool:
    """Whether a form was not made by this session: its token is missing or another."""
    return not visitor.csrf or not hmac.compare_digest(visitor.csrf.encode(), token.encode())


def begin(request: Request, keys: Keys, key: str, name: str) -> None:
    """Signs in. Nothing of the session before is kept, so nobody can have planted its token."""
    request.session.clear()
    request.session.update(
        {_KEY: keys.fingerprint(key), _NAME: name, _CSRF: secrets.token_urlsafe(32)},
    )


def end(request: Request) -> None:
    """Signs out."""
    request.session.clear()


def say(request: Request, text: str, kind: str = "good") -> None:
    """Leaves a sentence for the next page."""
    request.session[_FLASH] = [kind, text if len(text) <= MAX_FLASH else text[: MAX_FLASH - 1] + "…"]


def said(request: Request) -> Flash | None:
    """The sentence that was left for this page. It is shown once."""
    found = request.session.pop(_FLASH, None) if "session" in request.scope else None
    return None if found is None else Flash(*found)


def checked_name(name: str) -> str | None:
    """A name that a person gave, in one line; None when it is none that a person may have."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in name).split())
    return None if len(plain) > MAX_NAME or plain.casefold() == EXTERNAL else plain
