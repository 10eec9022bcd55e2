"""What the core asks of the world: two ports, each small enough to fake in a test."""

from collections.abc import Awaitable
from typing import Protocol

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.policy import PolicySet


class Limiter(Protocol):
    """Takes tokens. Wrappers have the same one method, so they stack."""

    def take(self, request: TakeRequest) -> Awaitable[Outcome]:
        """The outcome. Raises StoreError: nothing is known about it."""
        ...


class Policies(Protocol):
    """Hands out the policy in force."""

    def current(self) -> PolicySet:
        """The policy in force. Raises StoreError while none could be read yet."""
        ...
