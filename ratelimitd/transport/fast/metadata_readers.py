"""Which metadata of decisions an Envoy can read, so that the service need not send the rest.

Each item costs Envoy and the service a header of each response.
"""

import re
from collections.abc import Iterator
from typing import Any

from ratelimitd.transport.ext_authz import NAMESPACE

KEYS = ("outcome", "identity", "policy", "tier", "shadow", "degraded", "remaining")
"""All metadata of a decision."""

_FORMATTED = re.compile(r"%DYNAMIC_METADATA\(([^:)]*):?([^:)]*)")
_TYPES = "type.googleapis.com/envoy."
_EXTENSIONS = f"{_TYPES}extensions."
_READ_ONLY_BY_FORMAT = (
    f"{_EXTENSIONS}access_loggers.file.v3.",
    f"{_EXTENSIONS}access_loggers.stream.v3.",
    f"{_EXTENSIONS}clusters.",
    f"{_EXTENSIONS}filters.http.cors.v3.",
    f"{_EXTENSIONS}filters.http.ext_authz.v3.",
    f"{_EXTENSIONS}filters.http.header_mutation.v3.",
    f"{_EXTENSIONS}filters.http.router.v3.",
    f"{_EXTENSIONS}filters.network.http_connection_manager.v3.",
    f"{_EXTENSIONS}health_checkers.",
    f"{_EXTENSIONS}load_balancing_policies.",
    f"{_EXTENSIONS}network.dns_resolver.",
    f"{_EXTENSIONS}resource_monitors.",
    f"{_EXTENSIONS}retry.",
    f"{_EXTENSIONS}transport_sockets.",
    f"{_EXTENSIONS}upstreams.http.v3.",
)
"""Types that read metadata only by a format, or not at all. Any other may read all of it."""

_ELSEWHERE = frozenset({"filename", "type_urls", "typeUrls"})
"""Fields that name what is not in the bootstrap: files, which may have a format, and filters of a server."""


def metadata_read(config: Any) -> tuple[str, ...]:
    """The keys of the metadata that something in a bootstrap can read: all of them if that is not certain."""
    read: set[str] = set()
    for name, text in texts("", config):
        if name == "@type":
            if not text.startswith(_READ_ONLY_BY_FORMAT):
                return KEYS
            continue
        keys = {key for namespace, key in _FORMATTED.findall(text) if namespace == NAMESPACE}
        other_reader = NAMESPACE in _FORMATTED.sub("", text) and name != "name"
        if "" in keys or other_reader or "%CEL(" in text or name in _ELSEWHERE:
            return KEYS
        read |= keys
    return tuple(key for key in KEYS if key in read)


def texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts in a configuration, each with the name of its field."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(name, inner)
