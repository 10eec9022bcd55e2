"""Errors of redis-py with Redis's own text, which begins with the code of the error: MOVED, NOPERM, LOADING.

redis-py removes the code from the text of the errors that it has a class for. Without the code,
"3999 10.0.0.7:6379" does not say that the store is a cluster.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

from redis.asyncio.connection import DefaultParser
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.resources import resource

CLUSTER = "a Redis Cluster answers so; expected a URL that begins redis+cluster:// or rediss+cluster://"
"""Reason for an error of a server that did not say that it is a node of a cluster."""

_SHOWN_KEYS = 3
"""Keys of a script that an error shows. A batch of decisions may have hundreds."""

_ACL_IN_SCRIPT = re.compile("executing the script|ACL failure in script")
"""What Redis and Valkey write when an ACL forbids what a script does."""

_IN_SCRIPT: dict[str, type[RedisError]] = {
    " -LOADING ": BusyLoadingError,
    " -MASTERDOWN ": MasterDownError,
    " -READONLY ": ReadOnlyError,
}
"""Errors of commands in a script that another connection may not get, in the form before Redis 7: after
`ERR Error running script`. Later versions begin with the code."""

_CLUSTER_CODES = {"MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"}


class UnsupportedStoreError(NotConnectedError):
    """A server answered that ratelimitd cannot use as a store, so connecting again does not help."""


class NotMasterError(NotConnectedError):
    """A server that was located as the master is a replica. Its master may be located soon."""


class CodedParser(DefaultParser):  # type: ignore[misc, valid-type] # its type depends on what is installed
    """redis-py's parser of replies, except that errors keep Redis's text."""

    @classmethod
    def parse_error(cls, response: str) -> RedisError:
        """Returns the error of an error reply. Raises ValueError for a malformed MOVED or ASK."""
        error: RedisError = super().parse_error(response)
        for mark, kind in _IN_SCRIPT.items():
            if mark in response:
                error = kind(response)
        error.args = (response,)
        return error


def name_command(error: ResponseError, command: Sequence[object], *, in_cluster: bool = False) -> None:
    """Adds the command and its key to an error, because Redis names neither when a key is the reason.

    For a script these are its keys, and the commands that it runs when an ACL forbids one of them. An error
    that only a Redis Cluster sends gets the URL that is right, unless it is `in_cluster` already.
    """
    if not in_cluster and str(error).partition(" ")[0] in _CLUSTER_CODES:
        error.args = (f"{error} ({CLUSTER})",)
    name, *arguments = [
        part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in command
    ]
    if name not in {"EVAL", "EVALSHA"}:
        subject = " ".join([name, *arguments[:1]])
    else:
        script, keys = arguments[0], arguments[2 : 2 + int(arguments[1])]
        subject = f"{name} with the keys {', '.join(keys[:_SHOWN_KEYS])}"
        if _ACL_IN_SCRIPT.search(str(error)):
            sha = _sha1(script) if name == "EVAL" else script
            subject += f"; the script runs {', '.join(_commands_by_script().get(sha, ()))}"
    error.args = (f"{error} (the command was {subject:.300})",)


@cache
def _commands_by_script() -> dict[str, list[str]]:
    """Returns the commands that each script of this package runs, by the script's SHA-1."""
    sources = [file.read_text() for file in resource("lua").glob("*.lua")]
    return {_sha1(source): sorted(set(re.findall(r"[({]'([A-Z]+)'[,)]", source))) for source in sources}


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
