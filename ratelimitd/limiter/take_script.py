"""Encode the call of `lua/take.lua`, and decode its reply. The script's header is the contract."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from ratelimitd.core.model import Charge, Outcome, TakeRequest, new
from ratelimitd.errors import StoreReplyError

MAX_KINDS = 4096
"""Kinds of decisions whose arguments are kept; the least recently used are dropped first."""

Argument = int | str

# First number of a decision in the reply. Those above 0 allow it.
_DENIED_WITHOUT_REFILL = -1
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
    for kind in kinds:
        arguments += _arguments_of(kind)
    return keys, arguments + decisions


@lru_cache(MAX_KINDS)
def _arguments_of(kind: tuple[Charge, bool]) -> tuple[str, ...]:
    """The arguments of a kind, as text: packing a command formats each number in it anew."""
    charge, dry_run = kind
    numbers = (charge.cost, int(dry_run), len(charge.limits), len(charge.shadow))
    return tuple([repr(number) for number in (*numbers, *chain(*charge.limits, *charge.shadow))])


class Replaced(NamedTuple):
    """A key that held a value of another type, and that a bucket has replaced."""

    key: str
    type: str


def take_replaced(reply: object) -> list[Replaced]:
    """Removes the keys that were replaced from a reply, and returns them. Most replies have none."""
    if not isinstance(reply, list) or not reply or type(reply[-1]) is not list:
        return []
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in reply.pop()]
    return [Replaced(key, kind) for key, kind in zip(texts[::2], texts[1::2], strict=False)]


def decode(reply: object, requests: Sequence[TakeRequest]) -> list[Outcome]:
    """One outcome per request, in order. Raises StoreReplyError for what the script never returns."""
    expected = sum([1 + len(request.keys) for request in requests])
    if not isinstance(reply, list) or len(reply) != expected or set(map(type, reply)) - {int}:
        raise StoreReplyError(
            f"unexpected reply of the store: expected {expected} integers, got {reply!r:.100}"
        )
    outcomes = []
    at = 0
    for charge, keys, _ in requests:
        verdict, end = reply[at], at + 1 + len(charge.limits)
        tokens = tuple(reply[at + 1 : end])
        at += 1 + len(keys)
        shadow = None
        if charge.shadow and verdict > 0:
            shadow = Outcome(verdict != _DENIED_IN_SHADOW, tuple(reply[end:at]))
        withheld = verdict == _DENIED_WITHOUT_REFILL
        outcomes.append(new(Outcome, (verdict > 0, tokens, shadow, withheld, False)))
    return outcomes
