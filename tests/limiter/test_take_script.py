"""Compares `lua/take.lua` as shipped, on a real store, with the arithmetic in ratelimitd.core.bucket."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis

from ratelimitd.core.bucket import Bucket, charge_buckets, expiry_ms
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.limiter.take_script import decode, encode
from ratelimitd.resources import resource
from tests.core.take_requests import take_request

SCRIPT = resource("lua/take.lua").read_text()
NOW = 1_800_000_000_000_000

# Precedes the shipped script: the test sets the clock, and expiries are recorded instead of set.
SHIM = """
local server = redis
local redis = {call = function(command, ...)
  if command == 'TIME' then
    local now = server.call('GET', 'test:now')
    return {string.sub(now, 1, -7), string.sub(now, -6)}
  elseif command == 'PEXPIRE' then
    return server.call('HSET', 'test:expiry', ...)
  end
  return server.call(command, ...)
end}
"""

KEYS = ("a", "b", "c", "d")
COSTS = st.one_of(st.just(MICRO), st.just(0), st.integers(1, 5 * MICRO))
LIMITS = st.one_of(
    st.builds(Limit, st.integers(1, 10), st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.7])),
    st.builds(Limit, st.integers(1, 1_000_000_000), st.floats(0.000001, 1_000_000_000)),
)


def limits_of(keys: list[str], limits: list[Limit]) -> dict[str, Limit]:
    """Returns the first limits by key, as many as there are keys."""
    return dict(zip(keys, limits, strict=False))


REQUESTS = st.builds(
    lambda keys, limits, cost, in_shadow, dry_run: take_request(
        limits_of(keys[in_shadow:], limits[in_shadow:]),
        cost,
        limits_of(keys[:in_shadow], limits),
        dry_run=dry_run,
    ),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
    st.lists(LIMITS, min_size=4, max_size=4),
    COSTS,
    st.integers(0, 2),
    st.booleans(),
)
GAPS_US = st.one_of(st.integers(-3 * MICRO, 3 * MICRO), st.integers(0, 10**12))
STEPS = st.lists(st.tuples(GAPS_US, st.lists(REQUESTS, min_size=1, max_size=4)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def server(store_url: str) -> Any:
    """Yields a synchronous client, because hypothesis calls the test many times."""
    with SyncRedis.from_url(store_url, decode_responses=True) as client:
        yield client


@dataclass
class Model:
    """The expected store: buckets, and by key the instant (us) and the expiry (ms) of the last write."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    written: dict[str, tuple[int, int]] = field(default_factory=dict)

    def expire(self, now_us: int) -> list[str]:
        """Deletes the buckets that have expired at this instant and returns their keys."""
        gone = [key for key, (at_us, ms) in self.written.items() if at_us + ms * 1000 <= now_us]
        for key in gone:
            del self.written[key], self.buckets[key]
        return gone

    def take(self, request: TakeRequest, now_us: int) -> Outcome:
        """Returns the expected outcome."""
        outcome, changed = charge_buckets(self.buckets, request, now_us)
        self.buckets |= changed
        limits = request.charge.limits + request.charge.shadow
        for key, limit in zip(request.keys, limits, strict=True):
            if key in changed:
                self.written[key] = (now_us, expiry_ms(changed[key], limit, now_us))
        return outcome


def run(server: Any, requests: list[TakeRequest], now_us: int) -> list[Outcome]:
    """Runs the script at this instant and returns its outcomes."""
    server.set("test:now", now_us)
    keys, arguments = encode(requests)
    return decode(server.eval(SHIM + SCRIPT, len(keys), *keys, *arguments), requests)


def stored(server: Any) -> dict[str, Bucket]:
    """Returns all buckets in the store."""
    found = {key: server.hgetall(key) for key in KEYS}
    return {
        key: Bucket(round(float(fields["tokens"]) * MICRO), int(fields["last"]))
        for key, fields in found.items()
        if fields
    }


@settings(
    max_examples=4 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
@example(steps=[(0, [take_request({"a": Limit(72_057_595, 0.000001)})])])
def test_the_script_agrees_with_the_bucket_arithmetic(
    server: Any, steps: list[tuple[int, list[TakeRequest]]]
) -> None:
    """This holds for batches, changing limits and a clock that steps backwards."""
    server.flushall()
    model = Model()
    now = NOW
    for gap, requests in steps:
        now += gap
        for key in model.expire(now):
            server.delete(key)
            server.hdel("test:expiry", key)
        expected = [model.take(request, now) for request in requests]
        assert run(server, requests, now) == expected
        assert stored(server) == model.buckets
        expiries = {key: int(ms) for key, ms in server.hgetall("test:expiry").items()}
        assert expiries == {key: ms for key, (_, ms) in model.written.items()}


def fields_of(server: Any, key: str) -> dict[str, str]:
    """Returns the fields of a hash."""
    fields: dict[str, str] = server.hgetall(key)
    return fields


@pytest.mark.parametrize(
    ("capacity", "cost", "shown"),
    [
        (3, MICRO, "2"),
        (3, 1_500_000, "1.500000"),
        (1, 1, "0.999999"),
        (1_000_000_000, MICRO, "999999999"),
        (1_000_000_000, 1, "999999999.999999"),
    ],
)
def test_stored_numbers_have_no_exponent_and_lose_no_digit(
    server: Any, capacity: int, cost: int, shown: str
) -> None:
    server.flushall()
    run(server, [take_request({"a": Limit(capacity, 1.0)}, cost)], NOW)
    assert fields_of(server, "a") == {"tokens": shown, "last": "1800000000000000"}


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": "many", "last": str(NOW)},
        {"tokens": "0"},
        {"last": str(NOW)},
        {"tokens": "nan", "last": str(NOW)},
        {"tokens": "-5", "last": str(NOW)},
        {"tokens": "0", "last": "never"},
        {"tokens": "0", "last": "inf"},
        {"tokens": "0", "last": "1e25"},
    ],
)
def test_a_bucket_with_invalid_fields_counts_as_full(server: Any, fields: dict[str, str]) -> None:
    """The next request overwrites fields that were written by hand."""
    server.flushall()
    server.hset("a", mapping=fields)
    (outcome,) = run(server, [take_request({"a": Limit(3, 1.0)})], NOW)
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


def test_a_denial_changes_neither_the_bucket_nor_its_expiry(server: Any) -> None:
    server.flushall()
    request = take_request({"a": Limit(1, 0.001)})
    run(server, [request], NOW)
    before = (fields_of(server, "a"), fields_of(server, "test:expiry"))
    (denied,) = run(server, [request], NOW + 5 * MICRO)
    assert not denied.allowed
    assert (fields_of(server, "a"), fields_of(server, "test:expiry")) == before


def test_the_script_uses_the_server_clock_and_sets_the_expiry(server: Any) -> None:
    """`last` is TIME in microseconds. The key expires one second after its bucket is full."""
    server.flushall()
    keys, arguments = encode([take_request({"a": Limit(3, 0.1)})])
    seconds, micros = server.time()
    server.eval(SCRIPT, len(keys), *keys, *arguments)
    assert 0 <= int(fields_of(server, "a")["last"]) - (seconds * MICRO + micros) < 60 * MICRO
    set_at_ms = int(fields_of(server, "a")["last"]) // 1000
    assert abs(server.pexpiretime("a") - set_at_ms - 11_000) <= 2


USER = {"a": Limit(3, 0.001)}
SHADOW = {"b": Limit(1, 0.001)}


def test_a_tier_in_shadow_takes_tokens_and_denies_nothing(server: Any) -> None:
    """The outcome reports its denial, which takes no tokens from it; the other tiers still pay."""
    server.flushall()
    request = take_request(USER, shadow=SHADOW)
    outcomes = run(server, [request] * 4, NOW)
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, False]
    assert [outcome.shadow for outcome in outcomes] == [
        Outcome(allowed=True, tokens=(0,)),
        *[Outcome(allowed=False, tokens=(0,))] * 2,
        None,
    ]
    assert stored(server) == {"a": Bucket(0, NOW), "b": Bucket(0, NOW)}


def test_a_denied_request_takes_no_tokens_from_tiers_in_shadow(server: Any) -> None:
    """It would also be denied if those tiers were enforced, and a denial takes no tokens."""
    server.flushall()
    run(server, [take_request(USER, 3 * MICRO)], NOW)
    (denied,) = run(server, [take_request(USER, shadow=SHADOW)], NOW)
    assert denied == Outcome(False, (0,))  # noqa: FBT003 - the field is the name
    assert "b" not in stored(server)


def test_a_dry_run_and_a_cost_of_0_write_nothing(server: Any) -> None:
    """A dry run is denied where the request would be. A cost of 0 is never denied."""
    server.flushall()
    dry_run = take_request(USER, 2 * MICRO, shadow=SHADOW, dry_run=True)
    unchanged = Outcome(True, (3 * MICRO,), Outcome(False, (MICRO,)))  # noqa: FBT003 - the field `allowed`
    assert run(server, [dry_run] * 2, NOW) == [unchanged] * 2
    assert stored(server) == {}
    run(server, [take_request(USER, 2 * MICRO)], NOW)
    before = stored(server)
    free = take_request(USER, 0, shadow=SHADOW)
    assert [outcome.allowed for outcome in run(server, [dry_run, free], NOW)] == [False, True]
    assert stored(server) == before


def test_a_changed_limit_adds_no_tokens(server: Any) -> None:
    """A lower capacity discards the tokens above it. A bucket with a new key starts full."""
    server.flushall()
    run(server, [take_request(USER, 2 * MICRO)], NOW)

    def tokens_left(key: str, limit: Limit) -> int | None:
        dry_run = take_request({key: limit}, dry_run=True)
        return run(server, [dry_run], NOW)[0].tokens[0]

    assert tokens_left("a", Limit(100, 0.001)) == MICRO
    assert tokens_left("a", Limit(1, 0.001)) == MICRO
    run(server, [take_request({"c": Limit(9, 0.001)})], NOW)
    assert tokens_left("c", Limit(5, 0.001)) == 5 * MICRO
    assert tokens_left("renamed", Limit(100, 0.001)) == 100 * MICRO


@pytest.mark.parametrize("path", sorted(resource("lua").glob("*.lua")), ids=lambda path: path.name)
def test_each_script_documents_its_interface(path: Any) -> None:
    """The header comment has all five labels."""
    header = path.read_text().partition("]]")[0]
    for label in ("KEYS", "ARGV", "RETURN", "INVARIANT", "COMPLEXITY"):
        assert re.search(rf"^{label}\b", header, re.MULTILINE), label
