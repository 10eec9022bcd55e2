"""The call of `lua/take.lua`, in both directions. The script's header is the contract; here is its user."""

from collections.abc import Sequence

from ratelimitd.core.model import Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError

Argument = int | float


def encode(requests: Sequence[TakeRequest]) -> tuple[list[str], list[Argument]]:
    """KEYS and ARGV for a batch. A key and a limit are sent once, however many requests share them."""
    keys: dict[str, int] = {}
    limits: dict[Limit, int] = {}
    decisions: list[Argument] = []
    for request in requests:
        decisions += (request.cost, len(request.tiers))
        for tier in request.tiers:
            decisions.append(keys.setdefault(tier.key, len(keys) + 1))
            decisions.append(limits.setdefault(tier.limit, len(limits) + 1))
    arguments: list[Argument] = [len(limits)]
    for limit in limits:
        arguments += (limit.capacity, limit.refill_rate)
    return list(keys), arguments + decisions


def decode(reply: object, requests: Sequence[TakeRequest]) -> list[Outcome]:
    """One outcome per request, in order. Raises StoreError when the reply is not what the script returns."""
    expected = sum(1 + len(request.tiers) for request in requests)
    if not isinstance(reply, list) or len(reply) != expected or not all(type(n) is int for n in reply):
        raise StoreError(f"the store answered nonsense: expected {expected} integers, got {reply!r:.100}")
    outcomes = []
    at = 0
    for request in requests:
        end = at + 1 + len(request.tiers)
        outcomes.append(Outcome(reply[at] == 1, tuple(reply[at + 1 : end])))
        at = end
    return outcomes
