"""The attributes of spans: OpenTelemetry's semantic conventions 1.44, and our own below `ratelimitd.`.

No attribute holds the identity of a user or the path of a request: both may be personal data.
"""

import re

from ratelimitd import __version__
from ratelimitd.core.decision import Decision
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.match import ANY_API
from ratelimitd.errors import StoreRefusedError
from ratelimitd.store_url import StoreUrl

SCOPE = ("ratelimitd", __version__)
"""The name and the version of what makes the spans."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

Attributes = dict[str, str | int | bool]

_HTTP_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)

_CODE = re.compile(": ([A-Z]+)( |$)")
"""The code with which an error of Redis begins, in the text of a StoreRefusedError."""


def decision_attributes(decision: Decision, revision: int | None) -> Attributes:
    """Returns the attributes of a decision.

    `revision` is the number of the policy revision that it used, 0 for the default policy, None if unknown.
    """
    request, rules, outcome = decision.request, decision.rules, decision.outcome
    method = request.method
    found: Attributes = {
        "http.request.method": method if method in _HTTP_METHODS else "_OTHER",
        "ratelimitd.outcome": decision.verdict.value,
        "ratelimitd.identity.kind": decision.identity.kind,
        "ratelimitd.source": decision.source,
    }
    if rules is not None:
        found["ratelimitd.api"] = rules.api
        if rules.route is not None:
            found["http.route"] = rules.route.pattern
        elif rules.api != ANY_API:
            found["http.route"] = rules.api
        found["ratelimitd.policy.digest"] = decision.policy_digest
        if revision is not None:
            found["ratelimitd.policy.revision"] = revision
        if outcome is not None and not outcome.allowed:
            tier, _ = denying_tier(rules.limits, rules.charge.cost, outcome.tokens)
            found["ratelimitd.tier"] = tier.value
    if decision.shadow is not None:
        found["ratelimitd.shadow"] = decision.shadow
    if decision.dry_run:
        found["ratelimitd.dry_run"] = True
    return found


def store_attributes(url: StoreUrl) -> Attributes:
    """Returns the attributes of the store at a valid URL, and of the calls of decisions."""
    scheme, arguments = url.scheme, url.arguments
    found: Attributes = {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.namespace": str(arguments.get("db", 0)),
    }
    if scheme == "unix":
        return found | {"server.address": arguments["path"]}
    return found | {"server.address": arguments["host"], "server.port": arguments["port"]}


def peer_attributes(peer: object) -> Attributes:
    """Returns the attributes of the other end of a connection.

    `peer` is its address as a socket names it: a tuple that begins with host and port, or a path.
    """
    if isinstance(peer, tuple):
        return {"network.transport": "tcp", "network.peer.address": peer[0], "network.peer.port": peer[1]}
    if isinstance(peer, str) and peer:
        return {"network.transport": "unix", "network.peer.address": peer}
    return {}


def error_attributes(error: Exception) -> Attributes:
    """Returns the attributes of a failure. A refusal has only its code, since its text may name users."""
    found: Attributes = {"error.type": type(error).__name__}
    if isinstance(error, StoreRefusedError) and (code := _CODE.search(str(error))):
        found["db.response.status_code"] = code[1]
    return found


def error_text(error: Exception) -> str:
    """Returns the text of a failure, empty for a refusal."""
    return "" if isinstance(error, StoreRefusedError) else str(error)
