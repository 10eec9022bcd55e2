"""Encode the call of `lua/take.lua`, and decode its reply. The script's header is the contract."""

from collections.abc import Sequence

from ratelimitd.core.model import Charge, Outcome, TakeRequest, new
from ratelimitd.errors import StoreError

Argument = int | float

# First number of a decision in the reply; any other than these two is a plain yes.
_DENIED = 0
_DENIED_IN_SHADOW = 2


def encode(requests: Sequence[TakeRequest]) -> tuple[list[str], list[Argument]]:
    """KEYS and ARGV for a batch. A charge is sent once, however many requests share it."""
    keys: list[str] = []
    kinds: dict[tuple[Charge, bool], int] = {}
    decisions: list[Argument] = []
    for charge, buckets, dry_run in requests:
        keys += buckets
        decisions.append(kinds.setdefault((charge, dry_run), len(kinds) + 1))
    arguments: list[Argument] = [len(kinds)]
    for charge, dry_run in kinds:
        arguments += (charge.cost, int(dry_run), len(charge.limits), len(charge.shadow))
        for limit in charge.limits + charge.shadow:
            arguments += limit
    return keys, arguments + decisions


def decode(reply: object, requests: Sequence[TakeRequest]) -> list[Outcome]:
    """One outcome per request, in order. Raises StoreError when the reply is not what the script returns."""
    expected = sum([1 + len(request.keys) for request in requests])
    if not isinstance(reply, list) or len(reply) != expected or set(map(type, reply)) - {int}:
        raise StoreError(f"unexpected reply of the store: expected {expected} integers, got {reply!r:.100}")
    outcomes = []
    at = 0
    for charge, keys, _ in requests:
        verdict, end = reply[at], at + 1 + len(charge.limits)
        tokens = tuple(reply[at + 1 : end])
        at += 1 + len(keys)
        shadow = None
        if charge.shadow and verdict != _DENIED:
            shadow = Outcome(verdict != _DENIED_IN_SHADOW, tuple(reply[end:at]))
        outcomes.append(new(Outcome, (verdict != _DENIED, tokens, shadow)))
    return outcomes
