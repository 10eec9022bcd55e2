"""The service that every transport is tested with."""

from ratelimitd.core.check import Check
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.model import OnStoreError
from ratelimitd.core.ports import Limiter
from tests.core.fakes import FixedPolicies

MAX_MESSAGE_BYTES = 16_384


def check_over(limiter: Limiter, on_store_error: OnStoreError) -> Check:
    """The seed's policy over this limiter."""
    return Check(
        policies=FixedPolicies(),
        limiter=limiter,
        sources=parse_sources("header:x-user-id,address", None),
        key_prefix="rate",
        on_store_error=on_store_error,
    )
