"""The call of `lua/take.lua`, in both directions. The script's header is the contract; here is its user."""

from collections.abc import Sequence

from ratelimitd.core.model import Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError

Argument = int | float

_Kind = tuple[tuple[int, int, int], tuple[Limit, ...]]
"""Cost, negative for a look, number of tiers, number of those in shadow; and the limit of each."""

# The script's word on a decision; 1 is a plain yes.
_DENIED = 0
_DENIED_IN_SHADOW = 2


def encode(requests: Sequence[TakeRequest]) -> tuple[list[str], list[Argument]]:
    """KEYS and ARGV for a batch. A cost with its limits is sent once, however many share them."""
    keys: list[str] = []
    kinds: dict[_Kind, int] = {}
    decisions: list[Argument] = []
    for tiers, cost, shadow, look in requests:
        every = tiers + shadow
        keys += [tier.key for tier in every]
        what = (-cost if look else cost, len(tiers), len(shadow))
        kind = (what, tuple([tier.limit for tier in every]))
        decisions.append(kinds.setdefault(kind, len(kinds) + 1))
    arguments: list[Argument] = [len(kinds)]
    for what, limits in kinds:
        arguments += what
        for limit in limits:
            arguments += limit
    return keys, arguments + decisions


def decode(reply: object, requests: Sequence[TakeRequest]) -> list[Outcome]:
    """One outcome per request, in order. Raises StoreError when the reply is not what the script returns."""
    expected = sum(1 + len(request.tiers) + len(request.shadow) for request in requests)
    if not isinstance(reply, list) or len(reply) != expected or set(map(type, reply)) - {int}:
        raise StoreError(f"the store answered nonsense: expected {expected} integers, got {reply!r:.100}")
    outcomes = []
    at = 0
    for request in requests:
        verdict, end = reply[at], at + 1 + len(request.tiers)
        tokens = tuple(reply[at + 1 : end])
        at = end + len(request.shadow)
        shadow = None
        if request.shadow and verdict != _DENIED:
            shadow = Outcome(verdict != _DENIED_IN_SHADOW, tuple(reply[end:at]))
        outcomes.append(Outcome(verdict != _DENIED, tokens, shadow))
    return outcomes
