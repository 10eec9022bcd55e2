"""The service that every transport is tested with."""

import structlog

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import OnStoreError, Request
from ratelimitd.core.ports import Limiter
from ratelimitd.transport.services import Methods, served_methods
from tests.core.fakes import decider_over

MAX_MESSAGE_BYTES = 16_384


def methods_over(limiter: Limiter, on_store_error: OnStoreError) -> Methods:
    """Returns the methods of a service with small limits over this limiter. It logs each traceparent."""
    decider = decider_over(limiter, on_store_error)

    async def decide(request: Request) -> Decision:
        if request.traceparent:
            structlog.get_logger().error(request.traceparent)
        return await decider(request)

    return served_methods(decide)
