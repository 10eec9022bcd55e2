"""The decision, from a request to an answer. A store that cannot decide never turns into a 429."""

import json
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from ratelimitd.core.headers import (
    Headers,
    denied_fields,
    denying_tier,
    grpc_fields,
    limit_field,
    whole_seconds,
)
from ratelimitd.core.identity import Source, identify
from ratelimitd.core.match import DRY_RUN_CONTEXT, Terms, denying_shadow, match
from ratelimitd.core.model import (
    MICRO,
    Answer,
    Identity,
    OnStoreError,
    Outcome,
    Reply,
    Request,
    TierName,
    Verdict,
)
from ratelimitd.core.policy import PolicySet
from ratelimitd.core.ports import Limiter, Policies
from ratelimitd.errors import StoreError

DENIED = "rate limit exceeded"
BLOCKED = "blocked"
UNDECIDED = "rate limiter unavailable"

# google.rpc.Code, as a gRPC client reads them
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNAVAILABLE = 14

_STRICTEST_FIRST = (OnStoreError.DENY, OnStoreError.ENVOY, OnStoreError.ALLOW)


def _json_error(message: str) -> str:
    return json.dumps({"error": message}, separators=(",", ":"))


class Check:
    """Identify, match, take, answer.

    Args:
        policies: the policy in force.
        limiter: where tokens are taken.
        sources: who a request may be charged to, tried in order.
        key_prefix: what every bucket's key begins with.
        on_store_error: the answer when `policies` or `limiter` raises StoreError and the policy names none.
        on_shadow_denial: is told what is in shadow, by its name in the policy's text, when it would have
            denied a request.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        limiter: Limiter,
        sources: Sequence[Source],
        key_prefix: str,
        on_store_error: OnStoreError,
        on_shadow_denial: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._policies = policies
        self._limiter = limiter
        self._sources = sources
        self._key_prefix = key_prefix
        self._on_store_error = on_store_error
        self._on_shadow_denial = on_shadow_denial

    async def __call__(self, request: Request) -> Answer:
        """The answer for one request; it raises nothing of its own making."""
        identity = identify(self._sources, request)
        try:
            policy = self._policies.current()
        except StoreError:
            return self._undecided(request, identity, (self._on_store_error,))
        terms = match(policy, request, identity, self._key_prefix)
        if not terms.keys:
            return _unlimited(request, policy, identity, terms)
        spend = terms.spend(identity)
        if request.context.get(DRY_RUN_CONTEXT) == "true":
            spend = spend._replace(look=True)
        try:
            outcome = await self._limiter.take(spend)
        except StoreError:
            answers = [answer or self._on_store_error for answer in terms.on_store_error]
            return self._undecided(request, identity, answers)
        if not outcome.allowed:
            grpc = grpc_fields(request.headers.get("content-type", ""), RESOURCE_EXHAUSTED)
            return _denied(terms, outcome, grpc, identity.kind, policy.digest)
        shadow = denying_shadow(policy, terms, outcome)
        if shadow is not None and not spend.look:
            self._on_shadow_denial(shadow)
        return _allowed(terms, outcome, identity.kind, policy.digest, shadow)

    def _undecided(self, request: Request, identity: Identity, answers: Collection[OnStoreError]) -> Answer:
        """The strictest of the answers; nothing that can deny took part when there are none."""
        answer = next((answer for answer in _STRICTEST_FIRST if answer in answers), OnStoreError.ALLOW)
        metadata = (("outcome", "undecided"), ("identity", identity.kind))
        if answer is OnStoreError.ALLOW:
            return Answer(_verdict(Reply.OK, 200, metadata=metadata))
        headers = (
            ("content-type", "application/json"),
            ("retry-after", "1"),
            *grpc_fields(request.headers.get("content-type", ""), UNAVAILABLE),
        )
        reply = Reply.ERROR if answer is OnStoreError.ENVOY else Reply.DENIED
        return Answer(_verdict(reply, 503, headers, _json_error(UNDECIDED), metadata))


# The same words are one verdict, so its bytes are made once.
_remembered = lru_cache(maxsize=4096)
_verdict = _remembered(Verdict)


def _unlimited(request: Request, policy: PolicySet, identity: Identity, terms: Terms) -> Answer:
    """The answer where no bucket takes part: blocked, exempt, or all tiers are off."""
    metadata = (("outcome", terms.unlimited), ("identity", identity.kind), ("policy", policy.digest))
    if not terms.blocked:
        return Answer(_verdict(Reply.OK, 200, metadata=metadata))
    headers = (
        ("content-type", "application/json"),
        *grpc_fields(request.headers.get("content-type", ""), PERMISSION_DENIED),
    )
    return Answer(_verdict(Reply.DENIED, 403, headers, _json_error(BLOCKED), metadata))


def _allowed(terms: Terms, outcome: Outcome, identity_kind: str, digest: str, shadow: str | None) -> Answer:
    tokens = outcome.tokens
    if not tokens:
        return Answer(_allowance("", identity_kind, digest, None, shadow))
    # The tier that is nearest to its end; all are known, for all have paid.
    left = min(tokens)  # type: ignore[type-var] # likewise
    tier, _ = terms.limits[tokens.index(left)]
    return Answer(
        _allowance(terms.policy_field, identity_kind, digest, tier, shadow),
        limit_field(terms.limit_items, tokens),
        left // MICRO,  # type: ignore[operator] # likewise
    )


@_remembered
def _allowance(
    policy_field: str, identity_kind: str, digest: str, tier: TierName | None, shadow: str | None
) -> Verdict:
    metadata = [("outcome", "allowed"), ("identity", identity_kind), ("policy", digest)]
    if tier is not None:
        metadata.append(("tier", tier))
    if shadow is not None:
        metadata.append(("shadow", shadow))
    headers = (("ratelimit-policy", policy_field),) if policy_field else ()
    return Verdict(Reply.OK, 200, headers, metadata=tuple(metadata))


# Who is denied again and again gets the same answer: the same outcome, for a hundredth of a second, has been
# answered before, and until a whole second has passed others say the same.
@_remembered
def _denied(terms: Terms, outcome: Outcome, grpc: Headers, identity_kind: str, digest: str) -> Answer:
    tier, retry_after_us = denying_tier(terms.limits, terms.charge.cost, outcome.tokens)
    headers = (
        ("ratelimit-policy", terms.policy_field),
        *denied_fields(tier, whole_seconds(retry_after_us)),
        *grpc,
    )
    metadata = (("outcome", "denied"), ("tier", tier), ("identity", identity_kind), ("policy", digest))
    verdict = _verdict(Reply.DENIED, 429, headers, _json_error(DENIED), metadata)
    return Answer(verdict, limit_field(terms.limit_items, outcome.tokens), 0)
