"""The service that every transport is tested with."""

from collections.abc import Mapping

import structlog

from ratelimitd.core.model import Answer, OnStoreError, Request
from ratelimitd.core.ports import Limiter
from ratelimitd.transport.services import Unary, unary_methods
from tests.core.fakes import check_over

MAX_MESSAGE_BYTES = 16_384


def methods_over(limiter: Limiter, on_store_error: OnStoreError) -> Mapping[str, Unary]:
    """The methods of a service with the seed's limits over this limiter. It logs each traceparent it gets."""
    check = check_over(limiter, on_store_error)

    async def decide(request: Request) -> Answer:
        if request.traceparent:
            structlog.get_logger().error(request.traceparent)
        return await check(request)

    return unary_methods(decide)
