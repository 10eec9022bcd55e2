"""Compares `lua/take.lua` as shipped, on a real store, with the arithmetic in ratelimitd.core.bucket."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis

from ratelimitd.core.bucket import Bucket, charge_buckets, expiry_ms, wait_us
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.limiter.take_script import Replaced, decode, encode, take_replaced
from ratelimitd.resources import resource
from tests.core.take_requests import take_request

SCRIPT = resource("lua/take.lua").read_text()
NOW = 1_800_000_000_000_000

# Precedes the shipped script: the test sets the clock, and expiries are recorded instead of set.
SHIM = """
local server = redis
local redis = {pcall = server.pcall, call = function(command, ...)
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
GAPS_US = st.one_of(st.integers(-3 * MICRO, 3 * MICRO), st.integers(0, 10**12), st.integers(-(10**12), 0))
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


def call(server: Any, requests: list[TakeRequest], now_us: int) -> Any:
    """Runs the script at this instant and returns its reply."""
    server.set("test:now", now_us)
    keys, arguments = encode(requests)
    return server.eval(SHIM + SCRIPT, len(keys), *keys, *arguments)


def run(server: Any, requests: list[TakeRequest], now_us: int) -> list[Outcome]:
    """Runs the script at this instant and returns its outcomes."""
    reply = call(server, requests, now_us)
    take_replaced(reply)
    return decode(reply, requests)


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
@example(
    steps=[
        (0, [take_request({"a": Limit(1, 1_000_000_000)})]),
        (10**9 - NOW, [take_request({"a": Limit(1, 1_000_000_000)})]),
    ]
)
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
        {"tokens": "inf", "last": str(NOW + MICRO)},
    ],
)
def test_a_bucket_with_invalid_fields_counts_as_full(server: Any, fields: dict[str, str]) -> None:
    """The next request overwrites fields that were written by hand."""
    server.flushall()
    server.hset("a", mapping=fields)
    (outcome,) = run(server, [take_request({"a": Limit(3, 1.0)})], NOW)
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


def test_a_fraction_of_a_microsecond_in_the_future_does_not_make_last_decrease(server: Any) -> None:
    server.flushall()
    server.hset("a", mapping={"tokens": "3", "last": f"{NOW + MICRO}.25"})
    run(server, [take_request({"a": Limit(3, 1.0)})], NOW)
    assert fields_of(server, "a") == {"tokens": "2", "last": f"{NOW + MICRO + 1}"}


@pytest.mark.parametrize("left", ["0", "0.750000", "1.999999"])
@pytest.mark.parametrize("rate", [0.01, 1.0, 1_000_000.0])
def test_the_wait_of_a_bucket_whose_last_is_in_the_future_includes_that_time(
    server: Any, left: str, rate: float
) -> None:
    """After the wait the request is allowed. Until then the level increases as time passes."""
    server.flushall()
    ahead_us = 600 * MICRO
    fields = {"tokens": left, "last": str(NOW + ahead_us)}
    server.hset("a", mapping=fields)
    request = take_request({"a": Limit(3, rate)}, 2 * MICRO)
    (denied,) = run(server, [request], NOW)
    assert (denied.allowed, denied.refill_withheld) == (False, True)
    missing = 2 * MICRO - round(float(left) * MICRO)
    wait = wait_us(2 * MICRO - (denied.tokens[0] or 0), rate)
    assert 0 <= wait - ahead_us - missing / rate <= 2 + 1 / rate
    (later,) = run(server, [request], NOW + 100 * MICRO)
    assert (later.tokens[0] or 0) - (denied.tokens[0] or 0) == 100 * MICRO * rate
    assert fields_of(server, "a") == fields
    assert not run(server, [request], NOW + wait - 2 - int(1 / rate))[0].allowed
    assert run(server, [request], NOW + wait)[0].allowed


def test_a_last_in_the_future_neither_denies_nor_refills(server: Any) -> None:
    """Tokens that are there can be spent. In a denial by another tier such a bucket reports its tokens."""
    server.flushall()
    ahead = NOW + 600 * MICRO
    server.hset("a", mapping={"tokens": "2", "last": str(ahead)})
    server.hset("b", mapping={"tokens": "0", "last": str(NOW)})
    alone, both = take_request({"a": Limit(3, 1.0)}), take_request({"a": Limit(3, 1.0), "b": Limit(3, 1.0)})
    assert run(server, [both], NOW) == [Outcome(False, (2 * MICRO, 0), refill_withheld=True)]  # noqa: FBT003 - the field is the name
    assert run(server, [alone], NOW) == [Outcome(True, (MICRO,))]  # noqa: FBT003 - the field is the name
    assert stored(server)["a"] == Bucket(MICRO, ahead)


def test_a_last_in_the_year_2200_has_a_level_within_64_bits(server: Any) -> None:
    server.flushall()
    server.hset("a", mapping={"tokens": "0", "last": "7258118400000000"})
    limits = [Limit(1, rate) for rate in (0.000001, 1.0, 1_000_000_000.0)]
    outcomes = run(server, [take_request({"a": limit}) for limit in limits], NOW)
    bucket = {"a": Bucket(0, 7258118400000000)}
    for limit, outcome in zip(limits, outcomes, strict=True):
        assert outcome == charge_buckets(bucket, take_request({"a": limit}), NOW)[0]
    waits = [
        wait_us(MICRO - (outcome.tokens[0] or 0), one.refill_rate)
        for one, outcome in zip(limits, outcomes, strict=True)
    ]
    assert waits[:2] == [7258118400000000 - NOW + 10**12, 7258118400000000 - NOW + MICRO]
    assert waits[2] == 2**62 // 10**9 + 1


OTHER_TYPES = {
    "string": ("SET", "a", "x"),
    "list": ("RPUSH", "a", "x"),
    "set": ("SADD", "a", "x"),
    "zset": ("ZADD", "a", "1", "x"),
    "stream": ("XADD", "a", "*", "field", "x"),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_a_key_of_another_type_counts_as_full_and_is_replaced_when_charged(server: Any, kind: str) -> None:
    """The other decisions of the call are not affected."""
    server.flushall()
    server.execute_command(*OTHER_TYPES[kind])
    server.expire("a", 1000)
    limit = Limit(3, 1.0)
    reply = call(server, [take_request({"b": limit}), *[take_request({"a": limit})] * 4], NOW)
    assert take_replaced(reply) == [Replaced("a", kind)]
    outcomes = decode(reply, [take_request({"b": limit}), *[take_request({"a": limit})] * 4])
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, True, False]
    assert stored(server) == {"a": Bucket(0, NOW), "b": Bucket(2 * MICRO, NOW)}
    assert server.ttl("a") == -1, "the test records PEXPIRE, so only the old expiry could be there"


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_a_denial_and_a_dry_run_leave_a_key_of_another_type(server: Any, kind: str) -> None:
    server.flushall()
    server.execute_command(*OTHER_TYPES[kind])
    server.hset("b", mapping={"tokens": "0", "last": str(NOW)})
    both = take_request({"a": Limit(3, 1.0), "b": Limit(3, 0.001)})
    dry_run = take_request({"a": Limit(3, 1.0)}, dry_run=True)
    free = take_request({"a": Limit(3, 1.0)}, 0)
    outcomes = run(server, [both, dry_run, free], NOW)
    assert [(outcome.allowed, outcome.tokens[0]) for outcome in outcomes] == [
        (False, 3 * MICRO),
        (True, 3 * MICRO),
        (True, 3 * MICRO),
    ]
    assert server.type("a") == kind


def test_a_tier_in_shadow_with_a_key_of_another_type_is_replaced(server: Any) -> None:
    server.flushall()
    server.set("b", "x")
    (outcome,) = run(server, [take_request(USER, shadow=SHADOW)], NOW)
    assert outcome.shadow == Outcome(True, (0,))  # noqa: FBT003 - the field is the name
    assert server.type("b") == "hash"


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
