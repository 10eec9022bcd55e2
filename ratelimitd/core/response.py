"""Render a decision as the reply that Envoy gets: status, header fields, body and metadata."""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.decision import Decision
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.headers import (
    Headers,
    LimitItem,
    denied_fields,
    grpc_fields,
    limit_field,
    limit_items,
    policy_field,
)
from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import MICRO, OnStoreError, Outcome, Verdict, new
from ratelimitd.core.tiers import TierName

DENIED = "rate limit exceeded"
BLOCKED = "blocked"
UNDECIDED = "rate limiter unavailable"

DEGRADED = ("degraded", "true")
"""The metadata of a decision by a replica's share of the limits."""

UNDECIDED_RETRY_AFTER_S = 1
"""A store that comes back does so at once for all: a longer wait would only delay them."""

_JSON = ("content-type", "application/json")


class ResponseKind(StrEnum):
    """Which of CheckResponse's three kinds of reply it is."""

    OK = "ok_response"
    DENIED = "denied_response"
    ERROR = "error_response"


@dataclass(frozen=True, slots=True, eq=False)
class ResponseTemplate:
    """The part of a response that does not depend on the tokens left, so many requests share it.

    A template equals only itself, so its encoded form can be cached by it.

    Args:
        kind: the kind of reply.
        http_status: for the client; not used with `ResponseKind.OK`, nor is `body`.
        headers: lower-case names, each at most once; values are printable ASCII. With `ResponseKind.OK` they
            are added to the backend's response.
        body: for the client.
        metadata: dynamic metadata, which Envoy's access log can show.
    """

    kind: ResponseKind
    http_status: int
    headers: Headers = ()
    body: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


class Response(NamedTuple):
    """The reply to one request.

    Args:
        template: the part that other requests share.
        rate_limit: the field `ratelimit`; empty when there is none.
        remaining: whole tokens left in the bucket with the fewest, for the access log; 0 when the request was
            denied, None where no bucket takes part.
    """

    template: ResponseTemplate
    rate_limit: str = ""
    remaining: int | None = None


class Renderer:
    """Renders decisions, and keeps what it rendered for the most recent kinds of requests.

    Decisions that differ only in tokens get the identical template, so a transport encodes it once.

    Args:
        max_entries: templates that are kept, of each kind; the least recently used are dropped first.
    """

    def __init__(self, max_entries: int = 4096) -> None:
        cached = lru_cache(max_entries)
        self._template = cached(ResponseTemplate)
        self._allowance = cached(self._render_allowance)

    def __call__(self, decision: Decision) -> Response:
        """The response to one decision."""
        _, request, identity, digest, rules, outcome, shadow, *_ = decision
        if outcome is None or rules is None:
            return Response(self._without_tokens(decision))
        if not outcome.allowed:
            grpc_status = grpc_fields(request, GrpcCode.RESOURCE_EXHAUSTED)
            return self.denial(rules, outcome, identity.kind, digest, grpc_status)
        tokens = outcome.tokens
        if not tokens:
            return Response(self._allowance(rules, None, identity.kind, digest, shadow)[0])
        # The tier with the fewest tokens left. All are known, for all have paid.
        left = min(tokens)  # type: ignore[type-var] # an allowed outcome knows all its tokens
        tier, _ = rules.limits[tokens.index(left)]
        template, items = self._allowance(rules, tier, identity.kind, digest, shadow)
        remaining = left // MICRO  # type: ignore[operator] # as above
        return new(Response, (template, limit_field(items, tokens), remaining))

    def _render_allowance(
        self, rules: MatchedRules, tier: TierName | None, identity_kind: str, digest: str, shadow: str | None
    ) -> tuple[ResponseTemplate, tuple[LimitItem, ...]]:
        metadata = [("outcome", "allowed"), ("identity", identity_kind), ("policy", digest)]
        if tier is not None:
            metadata.append(("tier", tier))
        if shadow is not None:
            metadata.append(("shadow", shadow))
        if rules.degraded:
            metadata.append(DEGRADED)
        headers = (("ratelimit-policy", policy_field(rules.limits)),) if rules.limits else ()
        template = self._template(ResponseKind.OK, 200, headers, "", tuple(metadata))
        return template, limit_items(rules.limits)

    def denial(
        self, rules: MatchedRules, outcome: Outcome, identity_kind: str, digest: str, grpc_status: Headers
    ) -> Response:
        """The response to every denial with these parts, so that a transport can cache it by them."""
        tier, retry_after_us = denying_tier(rules.limits, rules.charge.cost, outcome.tokens)
        headers = (
            ("ratelimit-policy", policy_field(rules.limits)),
            *denied_fields(tier, retry_after_us),
            *grpc_status,
        )
        metadata: Headers = (
            ("outcome", "denied"),
            ("tier", tier),
            ("identity", identity_kind),
            ("policy", digest),
            *((DEGRADED,) if rules.degraded else ()),
        )
        template = self._template(ResponseKind.DENIED, 429, headers, _json_error(DENIED), metadata)
        return Response(template, limit_field(limit_items(rules.limits), outcome.tokens), 0)

    def _without_tokens(self, decision: Decision) -> ResponseTemplate:
        """The template of a decision without tokens: blocked, exempt, all tiers off, or undecided."""
        metadata = [("outcome", decision.verdict.value), ("identity", decision.identity.kind)]
        if decision.verdict is Verdict.UNDECIDED:
            return self._undecided(decision, tuple(metadata))
        metadata.append(("policy", decision.policy_digest))
        if decision.verdict is not Verdict.BLOCKED:
            return self._template(ResponseKind.OK, 200, (), "", tuple(metadata))
        headers = (_JSON, *grpc_fields(decision.request, GrpcCode.PERMISSION_DENIED))
        return self._template(ResponseKind.DENIED, 403, headers, _json_error(BLOCKED), tuple(metadata))

    def _undecided(self, decision: Decision, metadata: Headers) -> ResponseTemplate:
        if decision.on_store_error is OnStoreError.ALLOW:
            return self._template(ResponseKind.OK, 200, (), "", metadata)
        headers = (
            _JSON,
            ("retry-after", str(UNDECIDED_RETRY_AFTER_S)),
            *grpc_fields(decision.request, GrpcCode.UNAVAILABLE),
        )
        to_envoy = decision.on_store_error is OnStoreError.ENVOY
        kind = ResponseKind.ERROR if to_envoy else ResponseKind.DENIED
        return self._template(kind, 503, headers, _json_error(UNDECIDED), metadata)


def _json_error(message: str) -> str:
    return json.dumps({"error": message}, separators=(",", ":"))
