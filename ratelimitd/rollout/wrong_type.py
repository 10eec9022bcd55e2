"""Names the key in errors about keys that hold another type than ratelimitd needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ResponseError

from ratelimitd.errors import WrongTypeError

WRONG_TYPE = "WRONGTYPE"
"""Replaces the SHA-1 of a key that is not a string. Redis begins its error with the same word."""


def is_wrong_type(reply: object) -> bool:
    """Returns whether a reply is the error of Redis for a key of another type."""
    return isinstance(reply, ResponseError) and WRONG_TYPE in str(reply)


@contextmanager
def expecting(key: str, kind: str) -> Iterator[None]:
    """Turns the error of Redis for a key of another type into WrongTypeError, which names the key."""
    try:
        yield
    except ResponseError as error:
        if not is_wrong_type(error):
            raise
        raise WrongTypeError(
            f"{WRONG_TYPE}: the key {key} must be a {kind}, but holds another type; "
            f"delete it (redis-cli DEL '{key}')"
        ) from error
