"""Reports values of the address header that are not an address: the proxy in front is not set up as intended.

Their requests are charged to the peer, so all clients behind a proxy share one bucket.
"""

from ratelimitd.bounded_log import BoundedLog

MAX_SHOWN = 100
"""Characters of a value that are logged."""


class UnreadableAddresses:
    """Counts and logs unreadable values. Use it as `on_unreadable` of `core/identity.py:parse_sources`.

    Args:
        header: the name of the address header.
    """

    def __init__(self, header: str) -> None:
        self.count = 0
        self._header = header
        self._log = BoundedLog("ratelimitd.identity")

    def __call__(self, value: str) -> None:
        """Counts a value, and logs it unless the event was logged often within the last minute."""
        self.count += 1
        self._log.warning(
            "address_unreadable",
            header=self._header,
            value=ascii(value[:MAX_SHOWN])[1:-1],  # it may hold any bytes that a client sent
            reason="a list, expected one address" if "," in value else "not an IP address",
            charged_to="peer",
            count=self.count,
        )
