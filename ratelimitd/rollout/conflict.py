"""Words the conflict between a change of the policy and another one that came first."""

from ratelimitd.instants import iso_instant
from ratelimitd.rollout.revision import Revision


def conflict_reason(config_key: str, expected: int, newest: int, revision: Revision | None) -> str:
    """Returns what came first, and what to do.

    Args:
        config_key: the key that holds the policy's text.
        expected: number of the newest revision that the author of the change knows.
        newest: number of the newest revision.
        revision: the newest revision, None when its record is lost.
    """
    which, when = f"revision {newest}", ""
    if revision is not None:
        which, when = f"{which} by {revision.author}", f", at {iso_instant(revision.at_us)}"
    if newest > expected:
        what = f"{which} was accepted meanwhile{when}"
    elif newest == expected:
        what = f"{config_key} was changed directly since you read it, on top of {which}{when}"
    else:
        what = f"revision {expected} is gone, the newest is {which}{when}"
    return f"{what}; review it (policy diff), then apply again"
