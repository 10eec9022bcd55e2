"""Parts of a response as dictionaries."""

from ratelimitd.core.response import Response


def headers_of(response: Response) -> dict[str, str]:
    """The header fields, RateLimit among them."""
    own = {"ratelimit": response.rate_limit} if response.rate_limit else {}
    return dict(response.template.headers) | own


def metadata_of(response: Response) -> dict[str, str | int]:
    """The dynamic metadata."""
    own = {} if response.remaining is None else {"remaining": response.remaining}
    return dict(response.template.metadata) | own
