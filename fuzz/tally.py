"""The progress of an attack."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

KEPT = 64
"""The bytes of this many connections are kept."""

Message = Callable[..., Any]
"""A function that makes messages. Its name is their kind."""


@dataclass
class Tally:
    """The progress of an attack.

    Args:
        wanted: when to stop, in messages.
        messages: messages that the service has read: it answered a later frame, or closed the connection.
        unread: messages on connections that ended earlier, or that the service may not have read.
        connections: connections that were accepted.
        refused: connections that were not.
        stuck: connections on which nothing happened for ANSWER_S.
        responses: responses that ended with trailers, and those over HTTP/1.1.
        undecided: checks over HTTP/1.1 that were allowed without a decision.
        kinds: the messages by kind.
        sent: what the last connections sent.
    """

    wanted: int
    messages: int = 0
    unread: int = 0
    connections: int = 0
    refused: int = 0
    stuck: int = 0
    responses: int = 0
    undecided: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    sent: deque[bytearray] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, messages: Sequence[Message]) -> None:
        """Counts messages that the service has read."""
        self.messages += len(messages)
        self.kinds.update(message.__name__ for message in messages)
