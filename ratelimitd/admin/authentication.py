"""Authentication by the X-Admin-Key header. A valid key passes at once; a wrong one is answered late.

The delay does not make a key hard to guess: its 16 or more characters do. The delay, and the limit on answers
that are delayed at once, keep an attacker from filling the log.
"""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ratelimitd.admin.admin_keys import AdminKeys, Role
from ratelimitd.bounded_log import BoundedLog

HEADER = "X-Admin-Key"

REFUSAL_DELAY_S = 1.0
"""How late a wrong key is answered."""

MAX_DELAYED = 16
"""Answers that are delayed at once. A wrong key beyond them gets 429 at once, without a log entry."""


class Authenticator:
    """Finds the role of a request. `refused_keys` counts wrong keys.

    Args:
        keys: the keys in use.
        refusal_delay_s: how late a wrong key is answered, in seconds.
    """

    def __init__(self, keys: AdminKeys, refusal_delay_s: float = REFUSAL_DELAY_S) -> None:
        self.refused_keys = 0
        self._keys = keys
        self._refusal_delay_s = refusal_delay_s
        self._delayed = 0
        self._log = BoundedLog("ratelimitd.admin")

    async def role(self, connection: HTTPConnection) -> Role:
        """Returns the role of the key in the header. Raises HTTPException (401, or 429 from `refuse`)."""
        presented = connection.headers.get(HEADER)
        role = None if presented is None else self._keys.role(presented)
        if role is not None:
            return role
        if presented is not None:
            await self.refuse(connection)
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            f"the {HEADER} header is missing" if presented is None else f"the key in {HEADER} is not valid",
            {"www-authenticate": f'ApiKey header="{HEADER}"'},
        )

    async def refuse(self, connection: HTTPConnection) -> None:
        """Counts and logs a wrong key, and returns after the delay, when the caller may answer.

        Raises HTTPException (429) at once when too many answers are delayed already.
        """
        self.refused_keys += 1
        if self._delayed >= MAX_DELAYED:
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong keys at the same time; try again later",
                {"retry-after": "1"},
            )
        client = connection.client
        self._log.warning("admin_key_refused", client=client and client.host.removeprefix("::ffff:"))
        self._delayed += 1
        try:
            await asyncio.sleep(self._refusal_delay_s)
        finally:
            self._delayed -= 1


class RequireKey:
    """Middleware: passes requests with a valid key, with their role in `state`. It reads no body before."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request. Raises HTTPException like Authenticator.role."""
        role = await self._authenticator.role(HTTPConnection(scope))
        state = {**scope.get("state", {}), "role": role}
        await self._app({**scope, "state": state}, receive, send)


async def require_write(connection: HTTPConnection) -> None:
    """FastAPI dependency. Raises HTTPException (403) when the request's key is read-only."""
    if connection.state.role < Role.WRITE:
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "this key is read-only; a change needs a key that allows changes"
        )
