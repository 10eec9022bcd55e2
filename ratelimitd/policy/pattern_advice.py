"""Advice on path patterns that match no request as Envoy sends it, and on those with path parameters."""

import re

from ratelimitd.core.patterns import segments_without_parameters

_SLASH = re.compile(r"%2F|%5C|\\", re.IGNORECASE)
_DOTS = re.compile(r"(?<=/)(?:\.|%2E){1,2}(?![^/;])", re.IGNORECASE)

_PARAMETERS = re.compile(";|%3B", re.IGNORECASE)


def pattern_advice(pattern: str) -> str | None:
    """Returns what is wrong with a valid pattern, and which pattern to use in its place, or None."""
    if "%00" in pattern:
        return "matches no request: Envoy refuses a path with %00"
    slashed = _SLASH.sub("/", pattern)
    dotted = _DOTS.sub(lambda dots: dots[0].lower().replace("%2e", "."), slashed)
    better = "/" + "/".join(filter(None, segments_without_parameters(dotted)))
    if slashed != pattern:
        return _unmatched("turns %2F, %5C and \\ into /", better)
    if _DOTS.search(slashed):
        return _unmatched("resolves . and ..", better)
    if _PARAMETERS.search(pattern):
        return f"has path parameters; use {better}, which matches requests with and without them"
    return None


def _unmatched(envoy: str, better: str) -> str:
    return f"matches no request while Envoy normalizes paths: it {envoy}; use {better}"
