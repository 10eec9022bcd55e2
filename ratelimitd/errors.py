"""All errors of ratelimitd. A denied request is not an error but a result."""

from dataclasses import dataclass
from typing import ClassVar


class RatelimitdError(Exception):
    """Base class. The text is for people: what is wrong, where, and what would be right."""


class StoreError(RatelimitdError):
    """The store gave no valid reply within the deadline. Metrics count failed decisions by `reason`."""

    reason: ClassVar[str] = "other"


class StoreTimeoutError(StoreError):
    """The store did not reply within the deadline of a decision."""

    reason = "timeout"


class StoreAwayError(StoreError):
    """The store was not asked, because it is known not to answer. The text says how that was noticed."""

    reason = "away"


class StoreConnectionError(StoreError):
    """There was no connection to the store, or it ended before the reply."""

    reason = "connection"


class StoreOverloadError(StoreError):
    """Too many decisions wait for the store already."""

    reason = "overload"


class StoreReplyError(StoreError):
    """The store replied, but not in the form of the script's replies."""

    reason = "reply"


class WrongTypeError(StoreError):
    """A key in the store holds another type than ratelimitd needs."""


class StoreRefusedError(StoreError):
    """The store answered with an error, such as MISCONF, OOM or READONLY. It may still answer reads."""

    reason = "refused"


class StoreRedirectError(StoreRefusedError):
    """A node of a Redis Cluster did not execute a call. The cause says where or when to make it again."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a policy: its place, and the reason. An empty path stands for the whole text."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class PolicyError(RatelimitdError):
    """A policy text is not valid. Each problem says what is wrong and what would be right."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class ConflictError(RatelimitdError):
    """Another change of the policy came first; nothing was written."""


class NothingLostError(ConflictError):
    """There is no lost policy to restore; nothing was written."""


class UnknownRevisionError(RatelimitdError):
    """A revision does not exist, or was removed."""


class RequestSpecError(RatelimitdError):
    """The description of a request, a user or an address is not valid."""


class WaitError(RatelimitdError):
    """Some replicas do not run a revision yet. It is in force on the others."""


class CheckCallError(RatelimitdError):
    """A running service did not answer a Check."""


class SettingsError(RatelimitdError):
    """A setting is unknown or has a bad value."""


class ListenError(RatelimitdError):
    """The service cannot listen on its address."""


class CertificateError(RatelimitdError):
    """A file with a certificate or a key cannot be used."""


class MalformedRequestError(RatelimitdError):
    """A payload is not a CheckRequest with an HTTP request."""


class MissingExtraError(RatelimitdError):
    """A command needs an optional extra that is not installed."""


class FrontConfigError(RatelimitdError):
    """An Envoy configuration cannot host the service. The text says what is missing."""


class ChildError(RatelimitdError):
    """A child process did not start, or ended by itself."""
