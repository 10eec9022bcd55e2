"""A key opens the door, a wrong one waits. A right key never waits, however many wrong ones there are.

No pause makes a key hard to guess: its 16 or more characters do. The pause, and the bound on answers that
wait, keep somebody who tries from filling the log.
"""

import asyncio
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ratelimitd.admin.admin_keys import Keys, Role

HEADER = "X-Admin-Key"

PAUSE_S = 1.0
"""How late a wrong key is answered."""

MAX_HELD = 16
"""Answers that wait at once. A wrong key beyond them is answered at once, counted, and not logged."""

_log = structlog.get_logger("ratelimitd.admin")


class Guard:
    """Tells what a key allows. `refused` counts wrong keys.

    Args:
        keys: those in use.
        pause_s: how late a wrong key is answered.
    """

    def __init__(self, keys: Keys, pause_s: float = PAUSE_S) -> None:
        self.refused = 0
        self._keys = keys
        self._pause_s = pause_s
        self._held = 0

    async def role(self, connection: HTTPConnection) -> Role:
        """What the key in the header allows. Raises HTTPException: 401, or 429 when too many are held."""
        presented = connection.headers.get(HEADER)
        role = None if presented is None else self._keys.role(presented)
        if role is not None:
            return role
        if presented is not None:
            await self.hold(connection)
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            f"the header {HEADER} is missing" if presented is None else f"{HEADER} holds no key in use",
            {"www-authenticate": f'ApiKey header="{HEADER}"'},
        )

    async def hold(self, connection: HTTPConnection) -> None:
        """Logs who presented a wrong key, and returns when they may be told.

        Raises HTTPException (429) at once when too many are held.
        """
        self.refused += 1
        if self._held >= MAX_HELD:
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong keys wait for their answers; try again later",
                {"retry-after": "1"},
            )
        client = connection.client
        _log.warning("admin_key_refused", client=None if client is None else client.host)
        self._held += 1
        try:
            await asyncio.sleep(self._pause_s)
        finally:
            self._held -= 1


class Guarded:
    """Lets a request through to `app` when its key is one in use, and tells `app` its role.

    It asks before any of the body is read.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises HTTPException as Guard.role does."""
        role = await self._guard.role(HTTPConnection(scope))
        state = {**scope.get("state", {}), "role": role}
        await self._app({**scope, "state": state}, receive, send)


async def may_change(connection: HTTPConnection) -> None:
    """Raises HTTPException (403) unless the role of a guarded request allows changes."""
    if connection.state.role < Role.WRITE:
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "this key may only look; a change needs one that may change"
        )
