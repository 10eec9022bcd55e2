"""Recognizes the environment variables that Kubernetes sets in every pod for each Service of the namespace.

A Service named `ratelimitd-redis` leads to RATELIMITD_REDIS_SERVICE_HOST, RATELIMITD_REDIS_PORT and others,
which look like settings of ratelimitd.
"""

import re

_NAME = re.compile(
    r"""[A-Z0-9_]+_(?:
        SERVICE_HOST
        | SERVICE_PORT (?:_[A-Z0-9_]+)?  # with the name of a port
        | PORT_\d+_(?:TCP|UDP|SCTP) (?:_(?:ADDR|PORT|PROTO))?
    )""",
    re.VERBOSE,
)
"""Names that nobody chooses for a setting, so their values need no check."""

_PORT_NAME = re.compile(r"[A-Z0-9_]+_PORT")
_PORT_VALUE = re.compile(r"(?:tcp|udp|sctp)://.+")
"""A name that ends in `_PORT` may also be a mistyped setting, so Kubernetes' form of the value decides."""


def is_service_link(variable: str, value: str) -> bool:
    """Returns whether Kubernetes sets such a variable for a Service."""
    if _PORT_NAME.fullmatch(variable) and _PORT_VALUE.fullmatch(value):
        return True
    return _NAME.fullmatch(variable) is not None
