"""The flat form of a policy: six numbers in JSON, as `redis-cli SET rate_limit:config` writes them."""

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratelimitd.core.model import Limit, PolicySet, TierName
from ratelimitd.errors import PolicyError, must

MAX_BYTES = 1 << 20
"""A longer text is refused unparsed."""

Capacity = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Tokens. The upper end keeps microtokens within the 2^53 that Lua counts exactly."""

Rate = Annotated[float, Field(ge=0.000001, le=1_000_000_000, allow_inf_nan=False)]
"""Tokens per second. The lower end is one token in twelve days."""


class SeedPolicy(BaseModel):
    """Capacity and refill rate of each tier. Absent from Redis, its defaults are in force."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    global_capacity: Capacity
    global_rate: Rate
    user_capacity: Capacity
    user_rate: Rate
    user_api_capacity: Capacity
    user_api_rate: Rate


DEFAULT = SeedPolicy(
    global_capacity=500,
    global_rate=50,
    user_capacity=100,
    user_rate=5,
    user_api_capacity=20,
    user_api_rate=2,
)
"""What is in force while Redis holds no policy."""


def parse(text: bytes | str) -> SeedPolicy:
    """The policy in `text`. Raises PolicyError that names everything wrong with it at once."""
    if len(text) > MAX_BYTES:
        raise PolicyError(f"it has {len(text)} bytes; the most is {MAX_BYTES}")
    try:
        return SeedPolicy.model_validate_json(text)
    except ValidationError as error:
        problems = [
            ": ".join((*(str(part) for part in problem["loc"]), _sentence(problem["msg"], problem["input"])))
            for problem in error.errors(include_url=False)
        ]
        raise PolicyError("; ".join(problems)) from error


def _sentence(message: str, value: object) -> str:
    shown = "" if isinstance(value, dict | bytes) else f", got {value!r:.60}"
    return must(message) + shown


def policy_set(seed: SeedPolicy) -> PolicySet:
    """The policy as the core uses it. Its revision is a hash of its content, the same on every replica."""
    return PolicySet(
        revision=hashlib.sha256(seed.model_dump_json().encode()).hexdigest()[:12],
        limits={
            TierName.GLOBAL: Limit(seed.global_capacity, seed.global_rate),
            TierName.USER: Limit(seed.user_capacity, seed.user_rate),
            TierName.USER_API: Limit(seed.user_api_capacity, seed.user_api_rate),
        },
    )
