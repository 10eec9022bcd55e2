"""Responses that Envoy fetches over gRPC, because HTTP cannot carry them.

The response over HTTP has a key of the actual one, which Envoy keeps as metadata. The gRPC filter that
follows asks with this metadata, and gets the response. So the request is decided once.
"""

import secrets

KEY = "hand-over"
"""The name of the key, in the response over HTTP and in the metadata."""

MAX_WAITING = 4096
"""Responses that wait, about 4 MB. The oldest is dropped first; its request is decided again.

Only the response to a client that has left waits for longer than a moment. It holds nothing of the request.
"""


class HandOver:
    """The responses that wait to be fetched, as serialized messages."""

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}

    def __len__(self) -> int:
        """The number of responses that wait."""
        return len(self._waiting)

    def keep(self, response: bytes) -> str:
        """Keeps the response, and returns the key to fetch it with."""
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        key = secrets.token_hex(8)  # nobody else can guess it
        self._waiting[key] = response
        return key

    def fetch(self, key: str) -> bytes | None:
        """Returns the response, once; None for an unknown key."""
        return self._waiting.pop(key, None)
