"""Waits until the policy may have changed: the store sent a message, or some time has passed."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.errors import StoreError
from ratelimitd.rollout.revisions import RESET
from ratelimitd.store.client import store_errors
from ratelimitd.store.fresh_pool import pool_of

RESUBSCRIBE_INTERVAL_S = 1.0

CHECK_INTERVAL_S = 1.0
"""Longest wait for a message before the age of the connection is checked."""


class Changes:
    """The changes of a policy, for one replica.

    Args:
        client: the store.
        channel: `Revisions.channel`.
        on_reset: called when a person reset buckets.
        resubscribe_interval_s: pause before the next attempt to subscribe.
    """

    def __init__(
        self,
        client: Redis,
        channel: str,
        on_reset: Callable[[], None],
        resubscribe_interval_s: float = RESUBSCRIBE_INTERVAL_S,
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_reset = on_reset
        self._resubscribe_interval_s = resubscribe_interval_s
        self._changed = asyncio.Event()
        self._refused = False
        self._log = BoundedLog("ratelimitd.policy")

    async def wait(self, at_most_s: float) -> None:
        """Returns when a change is announced, or after this time."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def listen(self) -> None:
        """Subscribes to the channel, and again whenever the connection is lost, until cancelled."""
        while True:
            try:
                with store_errors():
                    await self._subscribe()
                    continue
            except StoreError as error:
                self._log_refusal(error)
            except Exception:  # noqa: BLE001 - after a defect, later changes must still be announced
                self._log.exception("policy_subscription_failed")
            await asyncio.sleep(self._resubscribe_interval_s)

    def _log_refusal(self, error: StoreError) -> None:
        """Logs once that the subscription is not permitted. The poll logs that the store is unavailable."""
        if isinstance(error.__cause__, NoPermissionError) and not self._refused:
            self._refused = True
            self._log.warning("policy_subscription_refused", channel=self._channel, reason=str(error))

    async def _subscribe(self) -> None:
        """Handles messages until the connection is outdated: it could lead to a store that has none."""
        pool = pool_of(self._client)
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            while pubsub.connection is not None and not pool.is_outdated(pubsub.connection):
                message = await pubsub.get_message(timeout=CHECK_INTERVAL_S)
                if message is not None:
                    self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "message" and message["data"] == RESET:
            self._on_reset()
        else:  # a change, or the confirmation of the subscription: a change may have been missed before it
            self._changed.set()
