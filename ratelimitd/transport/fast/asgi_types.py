"""The parts of an ASGI application's signature, as far as they are needed here."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

Scope = Mapping[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Call = Coroutine[None, None, None]
Application = Callable[[Scope, Receive, Send], Call]
