"""What an answer tells, as dictionaries."""

from ratelimitd.core.model import Answer


def headers_of(answer: Answer) -> dict[str, str]:
    """Its headers, that of RateLimit among them."""
    own = {"ratelimit": answer.rate_limit} if answer.rate_limit else {}
    return dict(answer.verdict.headers) | own


def metadata_of(answer: Answer) -> dict[str, str | int]:
    """What reaches the access log."""
    own = {} if answer.remaining is None else {"remaining": answer.remaining}
    return dict(answer.verdict.metadata) | own
