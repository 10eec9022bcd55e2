"""The ports of the core: its needs, which the rest of the program meets. Each is easy to fake in a test."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ratelimitd.core.decision import Decision
from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import Outcome, Request, TakeRequest
from ratelimitd.core.policy import PolicySet

Decide = Callable[[Request], Awaitable[Decision]]
"""Decides a request: `core/decide.py:Decider`, or a wrapper of it."""


class Limiter(Protocol):
    """Takes tokens. A wrapper has the same one method, so limiters stack."""

    def take(self, request: TakeRequest) -> Awaitable[Outcome]:
        """The outcome. Raises StoreError when there is none; tokens may have been taken all the same."""
        ...


class LocalLimiter(Protocol):
    """Takes tokens from memory, at once, while the store cannot decide."""

    def rules(self, rules: MatchedRules) -> MatchedRules:
        """The rules with the limits that hold in memory."""
        ...

    def take(self, request: TakeRequest) -> Outcome:
        """The outcome for a request with the charge of such rules. It never fails."""
        ...


Answer = Outcome | Exception
"""The outcome of a request, or a StoreError after which its state is unknown. Any other error is a defect."""

BatchAnswer = Sequence[Answer] | Exception
"""One answer per request, in order, or the error of all."""

BatchCallback = Callable[[BatchAnswer], None]
"""Called exactly once."""


class BatchLimiter(Protocol):
    """Takes tokens for many requests in one call."""

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Starts one call. `callback` is called when it ends, and not before `submit` has returned.

        A call without requests takes nothing. It finds out whether the store answers.
        """
        ...


class Policies(Protocol):
    """Gives the policy in force."""

    def current(self) -> PolicySet:
        """The policy in force. Raises StoreError while none could be read yet."""
        ...


class Observer(Protocol):
    """Sees every decision: for metrics, usage counts or traces. It cannot change one, not even by failing."""

    def decided(self, decision: Decision) -> None:
        """Called after each decision, on the event loop: it must return at once."""
        ...
