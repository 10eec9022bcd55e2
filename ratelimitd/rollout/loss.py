"""What a replica does when the store was emptied: it keeps its policy, writes it down and reports that."""

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revision import DEFAULTS
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.snapshot import LostPolicy, PolicySnapshot


class Loss:
    """The loss of the policy, as one replica sees it.

    Args:
        revisions: the revisions of the policy.
        key: the config key, for the log.
    """

    def __init__(self, revisions: Revisions, key: str) -> None:
        self._revisions = revisions
        self._key = key
        self._reported = False
        self._log = BoundedLog("ratelimitd.policy")

    async def keep(self, replica: Replica, text: str, now_us: int) -> None:
        """Writes the policy in force to the emptied store. Raises StoreError.

        Args:
            replica: the replica's entry.
            text: the text of the policy that it runs.
            now_us: the store's clock.
        """
        await self._revisions.keep(LostPolicy(number=max(1, replica.number), noticed_us=now_us, text=text))

    def report(self, replica: Replica, *, is_lost: bool) -> None:
        """Logs that the store was emptied, and later that it holds a policy again."""
        if is_lost and not self._reported:
            self._log.error(
                "policy_lost",
                key=self._key,
                in_force=replica.digest,
                number=replica.number,
                remedy="ratelimitd policy restore",
            )
        elif self._reported and not is_lost:
            self._log.info("policy_replaced", key=self._key, in_force=replica.digest)
        self._reported = is_lost


def keeps_policy(replica: Replica, snapshot: PolicySnapshot) -> bool:
    """Returns whether the store was emptied and holds nothing that replaces the policy of this replica."""
    if not replica.digest or not snapshot.empty:
        return False
    if snapshot.lost is None:
        return replica.digest != DEFAULTS.digest
    return replica.number > snapshot.lost.number
