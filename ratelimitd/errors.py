"""Every way ratelimitd can fail to do its work. A denial is no error: it is an answer."""


class RatelimitdError(Exception):
    """The root: its text is a sentence that a person can act on."""


class StoreError(RatelimitdError):
    """The store gave no usable answer within the deadline: the request could not be decided."""


class PolicyError(RatelimitdError):
    """A policy was refused: the text names what was wrong and what would be right."""


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
