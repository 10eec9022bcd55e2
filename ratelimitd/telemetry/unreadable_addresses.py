"""Reports requests whose address header is missing or is not an address: a proxy is not set up as intended.

They are charged to the peer, so all clients behind a proxy share one bucket.
"""

from ratelimitd.bounded_log import BoundedLog

MAX_SHOWN = 100
"""Characters of a value that are logged."""


class UnreadableAddresses:
    """Counts and logs such requests. Use it as `on_unreadable` of `core/identity.py:parse_sources`.

    Args:
        header: the name of the address header.
    """

    def __init__(self, header: str) -> None:
        self.count = 0
        self._header = header
        self._log = BoundedLog("ratelimitd.identity")

    def __call__(self, value: str | None) -> None:
        """Counts a request, and logs it unless the event was logged often within the last minute.

        `value` is that of the header, or None when the request has no such header.
        """
        self.count += 1
        self._log.warning(
            "address_unreadable",
            header=self._header,
            # A value may hold any bytes that a client sent.
            value=None if value is None else ascii(value[:MAX_SHOWN])[1:-1],
            reason=_reason(value),
            charged_to="peer",
            count=self.count,
        )


def _reason(value: str | None) -> str:
    if value is None:
        return "the header is missing"
    return "a list, expected one address" if "," in value else "not an IP address"
