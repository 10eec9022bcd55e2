"""Builds the entries that replicas write to the store."""

from ratelimitd.rollout.replicas import Replica


def replica(
    replica_id: str = "r1",
    *,
    number: int = 0,
    digest: str = "",
    refused: str | None = None,
    version: str = "0",
    transport: str = "grpcio",
    started_us: int = 0,
    seen_us: int = 0,
    unreadable_addresses: int = 0,
) -> Replica:
    """Returns an entry; by default that of a replica without a policy."""
    return Replica(
        id=replica_id,
        version=version,
        transport=transport,
        number=number,
        digest=digest,
        refused=refused,
        started_us=started_us,
        seen_us=seen_us,
        unreadable_addresses=unreadable_addresses,
    )
