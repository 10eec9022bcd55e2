"""The call of `lua/take.lua`, in both directions. The script's header is the contract; here is its user."""

from collections.abc import Sequence

from ratelimitd.core.model import Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError

Argument = int | float

# The script's word on a decision; 1 is a plain yes.
_DENIED = 0
_DENIED_IN_SHADOW = 2


def encode(requests: Sequence[TakeRequest]) -> tuple[list[str], list[Argument]]:
    """KEYS and ARGV for a batch. A key and a limit are sent once, however many requests share them."""
    keys: dict[str, int] = {}
    limits: dict[Limit, int] = {}
    decisions: list[Argument] = []
    for request in requests:
        cost = -request.cost if request.look else request.cost
        decisions += (cost, len(request.tiers), len(request.shadow))
        for tier in (*request.tiers, *request.shadow):
            decisions.append(keys.setdefault(tier.key, len(keys) + 1))
            decisions.append(limits.setdefault(tier.limit, len(limits) + 1))
    arguments: list[Argument] = [len(limits)]
    for limit in limits:
        arguments += (limit.capacity, limit.refill_rate)
    return list(keys), arguments + decisions


def decode(reply: object, requests: Sequence[TakeRequest]) -> list[Outcome]:
    """One outcome per request, in order. Raises StoreError when the reply is not what the script returns."""
    expected = sum(1 + len(request.tiers) + len(request.shadow) for request in requests)
    if not isinstance(reply, list) or len(reply) != expected or not all(type(n) is int for n in reply):
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
