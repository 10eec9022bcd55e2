"""The users of the drills and their limits."""

from drills.records import ROOMY, TIGHT

ROOMY_USERS, TIGHT_USERS = 80, 10

CAPACITY, REFILL_RATE = 5, 2.0
"""The limit of a tight user, in tokens and tokens per second."""

TIGHT_SHARE = 5
"""One request in so many comes from a tight user."""

VAST = 1_000_000_000
"""The limits that no drill can reach."""


def user(number: int) -> str:
    """Returns the user of the request with this number. Each population takes turns."""
    turn, kind = divmod(number, TIGHT_SHARE)
    if kind == 0:
        return f"{TIGHT}-{turn % TIGHT_USERS}"
    return f"{ROOMY}-{(turn * (TIGHT_SHARE - 1) + kind - 1) % ROOMY_USERS}"


def policy_text(*, on_store_error: str = "", comment: str = "") -> str:
    """Returns the policy of the drills as YAML.

    Args:
        on_store_error: the answer while the store is away; empty for the service's setting.
        comment: a first line, which makes the text another one.
    """
    vast = f"{{capacity: {VAST}, refill_rate: {VAST}}}"
    answer = f", on_store_error: {on_store_error}" if on_store_error else ""
    lines = [
        f"# {comment}",
        "tiers:",
        f"  global: {vast}",
        f"  user: {vast[:-1]}{answer}}}",
        f"  user_api: {vast}",
        "overrides:",
        "  users:",
        *(
            f"    {TIGHT}-{number}: {{user: {{capacity: {CAPACITY}, refill_rate: {REFILL_RATE}}}}}"
            for number in range(TIGHT_USERS)
        ),
    ]
    return "\n".join(lines) + "\n"
