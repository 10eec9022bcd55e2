"""Returns the headers and the metadata of a response as dictionaries."""

from ratelimitd.core.response import Response


def headers_of(response: Response) -> dict[str, str]:
    """Returns all header fields, including RateLimit."""
    own = {"ratelimit": response.rate_limit} if response.rate_limit else {}
    return dict(response.template.headers) | own


def metadata_of(response: Response) -> dict[str, str | int]:
    """Returns all dynamic metadata, including the remaining tokens."""
    own = {} if response.remaining is None else {"remaining": response.remaining}
    return dict(response.template.metadata) | own
