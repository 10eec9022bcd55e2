"""Every way ratelimitd can fail to do its work. A denial is no error: it is an answer."""

from dataclasses import dataclass


class RatelimitdError(Exception):
    """The root: its text is a sentence that a person can act on."""


class StoreError(RatelimitdError):
    """The store gave no usable answer within the deadline: the request could not be decided."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a policy: where, and why. An empty path is the whole text."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class PolicyError(RatelimitdError):
    """A policy was refused: each problem names what was wrong and what would be right."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class ConflictError(RatelimitdError):
    """Somebody else changed the policy first: nothing was written."""


class UnknownRevisionError(RatelimitdError):
    """There is no such revision, or it is no longer kept."""


class RequestSpecError(RatelimitdError):
    """What was asked about cannot be: the text says which part, and what would be right."""


class WaitError(RatelimitdError):
    """Not every replica runs a revision yet; it is in force where it can be."""


class CheckCallError(RatelimitdError):
    """A running service gave no answer to a Check that it was asked."""


class SettingsError(RatelimitdError):
    """A setting is unknown or bad: the service does not start."""


class ListenError(RatelimitdError):
    """The address to listen on cannot be had."""


class MalformedRequestError(RatelimitdError):
    """The caller sent bytes that are no CheckRequest, or one that holds no HTTP request."""


class MissingExtraError(RatelimitdError):
    """An optional part was asked for that is not installed."""


class FrontConfigError(RatelimitdError):
    """An Envoy configuration cannot take the service in: the text says what is missing."""


class ChildError(RatelimitdError):
    """A process that ratelimitd started did not come up, or ended by itself."""


def must(message: str) -> str:
    """A validator's message in our words: `Input should be a number` becomes `must be a number`."""
    text = message.removeprefix("Value error, ")
    text = text.replace("Input should ", "must ")
    return text[:1].lower() + text[1:]
