"""Words the conflict between a change of the policy and another one that came first."""

from ratelimitd.instants import iso_instant
from ratelimitd.rollout.expected import Expected
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


def other_text_reason(config_key: str, expected: Expected, newest: Revision) -> str:
    """Returns why a number may stand for another text than its author has read, and what to do.

    Args:
        config_key: the key that holds the policy's text.
        expected: what the author of the change knows.
        newest: the newest revision, which has the number that is expected.
    """
    if expected.digest:
        what = f"revision {newest.number} has the digest {newest.digest}, not {expected.digest}"
    else:
        what = f"revision {newest.number} ({newest.digest}) had not been recorded when you read it"
    return (
        f"{what}, and {config_key} was written directly; review it (policy show), then apply again, "
        f"expecting {newest.tag}"
    )
