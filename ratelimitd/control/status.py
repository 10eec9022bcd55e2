"""The status: the policy in force, the replicas, and why their list may be incomplete."""

from redis.asyncio import Redis

from ratelimitd.control.answers import CurrentPolicy, ReplicaStatus, Status
from ratelimitd.errors import WrongTypeError
from ratelimitd.rollout.replicas import Replica, Replicas
from ratelimitd.store.refused_writes import refused_writes


async def read_status(client: Redis, replicas: Replicas, current: CurrentPolicy, now_us: int) -> Status:
    """Returns the status of this policy. Raises StoreError.

    Args:
        client: the store.
        replicas: the replicas of the policy.
        current: the policy in force.
        now_us: the store's clock.
    """
    listed: list[Replica] = []
    shadow: dict[str, int] = {}
    warnings: list[str] = []
    try:
        listed = await replicas.listed(now_us)
    except WrongTypeError as error:
        warnings.append(f"no replica can report what it runs: {error}")
    try:
        shadow = await replicas.shadow(current.revision.number)
    except WrongTypeError as error:
        warnings.append(f"shadow denials cannot be counted: {error}")
    statuses = [ReplicaStatus.of(replica, current, now_us) for replica in listed]
    if all(replica.silent for replica in statuses) and (reason := await refused_writes(client)):
        warnings.append(
            f"the store refuses writes, so replicas cannot report and the list may be out of date: {reason}"
        )
    return Status(
        revision=current.revision,
        refused=current.refused,
        recorded=current.recorded,
        lost_us=current.lost_us,
        replicas=statuses,
        shadow=shadow,
        warnings=warnings,
        now_us=now_us,
    )
