"""The answer about top users: the summaries of all replicas, merged."""

from collections import Counter

from redis.asyncio import Redis

from ratelimitd.control.usage_answers import TopUser, TopUsers
from ratelimitd.core.identity import identity_of_key, name_of_key
from ratelimitd.core.model import MICRO
from ratelimitd.errors import WrongTypeError
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.store.refused_writes import refused_writes
from ratelimitd.usage.summary import Summary, merge
from ratelimitd.usage.top_publisher import is_hashed
from ratelimitd.usage.top_store import TopStore

MOST = 100
"""Users in an answer."""


async def read_top_users(
    client: Redis, config_key: str, replicas: Replicas, *, denied: bool, most: int = MOST
) -> TopUsers:
    """Returns the users with the most requests, at most `most` of them. Raises StoreError."""
    periods, warnings, now_us = await TopStore(client, config_key).read()
    summary = merge([(period.denied if denied else period.all).summary() for period in periods]).cut(most)
    modes = await _modes(replicas, now_us, warnings) or Counter(period.mode for period in periods)
    if len(modes) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        warnings.append(f"the replicas differ in RATELIMITD_TOP_USERS: {counts}")
    if not periods and "off" not in modes and (reason := await refused_writes(client)):
        warnings.append(f"the store refuses writes, so replicas cannot report: {reason}")
    began_us = min((period.began_us for period in periods), default=now_us)
    return TopUsers(
        at_us=now_us,
        denied=denied,
        window_s=-(-max(0, now_us - began_us) // MICRO),
        total=summary.total,
        error_bound=summary.floor,
        mode="mixed" if len(modes) > 1 else next(iter(modes), None),
        users=_users(summary, warnings),
        warnings=warnings,
    )


async def _modes(replicas: Replicas, now_us: int, warnings: list[str]) -> Counter[str]:
    """Returns how many replicas run with each value of the setting."""
    try:
        listed = await replicas.listed(now_us)
    except WrongTypeError as error:
        warnings.append(f"it is not known which replicas run: {error}")
        return Counter()
    return Counter(replica.top_users for replica in listed if not replica.is_silent(now_us))


def _users(summary: Summary, warnings: list[str]) -> list[TopUser]:
    users = []
    for key, (requests, error) in summary.counts.items():
        if is_hashed(key):
            users.append(TopUser(kind="hashed", key=key, name=key, requests=requests, error=error))
        elif (identity := identity_of_key(key)) is not None:
            name = name_of_key(key)
            users.append(TopUser(kind=identity.kind, key=key, name=name, requests=requests, error=error))
        else:
            warnings.append(f"the store holds counts of {key!r}, which is not the key of an identity")
    return users
