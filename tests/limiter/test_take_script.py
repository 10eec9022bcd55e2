"""`lua/take.lua` as shipped, on a real store, against the oracle, number for number."""

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

# Runs the shipped text with a clock that the test sets, and notes expiries instead of setting them.
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
    """So many as there are keys."""
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
    """A plain synchronous client: hypothesis drives it."""
    with SyncRedis.from_url(store_url, decode_responses=True) as client:
        yield client


@dataclass
class Model:
    """What the oracle believes the store holds: buckets, and the instant and the expiry of their writing."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    written: dict[str, tuple[int, int]] = field(default_factory=dict)

    def expire(self, now_us: int) -> list[str]:
        """Forgets what a store would have expired by now, and names it."""
        gone = [key for key, (at_us, ms) in self.written.items() if at_us + ms * 1000 <= now_us]
        for key in gone:
            del self.written[key], self.buckets[key]
        return gone

    def take(self, request: TakeRequest, now_us: int) -> Outcome:
        """The oracle's outcome."""
        outcome, changed = charge_buckets(self.buckets, request, now_us)
        self.buckets |= changed
        limits = request.charge.limits + request.charge.shadow
        for key, limit in zip(request.keys, limits, strict=True):
            if key in changed:
                self.written[key] = (now_us, expiry_ms(changed[key], limit, now_us))
        return outcome


def run(server: Any, requests: list[TakeRequest], now_us: int) -> list[Outcome]:
    """The script's outcomes at an instant of the test's choosing."""
    server.set("test:now", now_us)
    keys, arguments = encode(requests)
    return decode(server.eval(SHIM + SCRIPT, len(keys), *keys, *arguments), requests)


def stored(server: Any) -> dict[str, Bucket]:
    """Every bucket in the store."""
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
def test_the_script_agrees_with_the_oracle(server: Any, steps: list[tuple[int, list[TakeRequest]]]) -> None:
    """Outcomes, numbers and expiries are equal: batches, changing limits, clocks that step back."""
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
    """A bucket as HGETALL shows it."""
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
def test_stored_numbers_are_readable_and_whole(server: Any, capacity: int, cost: int, shown: str) -> None:
    """No exponent, no lost digit, at either end of the range."""
    server.flushall()
    run(server, [take_request({"a": Limit(capacity, 1.0)}, cost)], NOW)
    assert fields_of(server, "a") == {"tokens": shown, "last": "1800000000000000"}


@pytest.mark.parametrize(
    "nonsense",
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
def test_a_bucket_full_of_nonsense_is_a_full_one(server: Any, nonsense: dict[str, str]) -> None:
    """What somebody wrote by hand heals with the next request."""
    server.flushall()
    server.hset("a", mapping=nonsense)
    (outcome,) = run(server, [take_request({"a": Limit(3, 1.0)})], NOW)
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


def test_a_denial_leaves_the_bytes_and_the_expiry_alone(server: Any) -> None:
    """Not even the clock of a bucket moves."""
    server.flushall()
    request = take_request({"a": Limit(1, 0.001)})
    run(server, [request], NOW)
    before = (fields_of(server, "a"), fields_of(server, "test:expiry"))
    (denied,) = run(server, [request], NOW + 5 * MICRO)
    assert not denied.allowed
    assert (fields_of(server, "a"), fields_of(server, "test:expiry")) == before


def test_the_real_clock_is_the_servers_and_the_real_expiry_is_exact(server: Any) -> None:
    """Without the shim: `last` is TIME in microseconds, and PTTL is time to full plus a second."""
    server.flushall()
    keys, arguments = encode([take_request({"a": Limit(3, 0.1)})])
    seconds, micros = server.time()
    server.eval(SCRIPT, len(keys), *keys, *arguments)
    assert 0 <= int(fields_of(server, "a")["last"]) - (seconds * MICRO + micros) < 60 * MICRO
    set_at_ms = int(fields_of(server, "a")["last"]) // 1000
    assert abs(server.pexpiretime("a") - set_at_ms - 11_000) <= 2


USER = {"a": Limit(3, 0.001)}
TRIED = {"b": Limit(1, 0.001)}


def test_a_tier_in_shadow_counts_and_denies_nobody(server: Any) -> None:
    """Its denial is told and spends nothing of it; the tiers that can deny pay as ever."""
    server.flushall()
    request = take_request(USER, shadow=TRIED)
    outcomes = run(server, [request] * 4, NOW)
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, False]
    assert [outcome.shadow for outcome in outcomes] == [
        Outcome(allowed=True, tokens=(0,)),
        *[Outcome(allowed=False, tokens=(0,))] * 2,
        None,
    ]
    assert stored(server) == {"a": Bucket(0, NOW), "b": Bucket(0, NOW)}


def test_a_denied_request_takes_nothing_from_a_shadow(server: Any) -> None:
    """With the shadow enforced it would have been denied too, and a denial spends nothing."""
    server.flushall()
    run(server, [take_request(USER, 3 * MICRO)], NOW)
    (denied,) = run(server, [take_request(USER, shadow=TRIED)], NOW)
    assert denied == Outcome(False, (0,))  # noqa: FBT003 - the field is the name
    assert "b" not in stored(server)


def test_a_dry_run_takes_nothing_and_a_cost_of_0_neither(server: Any) -> None:
    """A dry run is denied where the request would be. A cost of 0 is never denied. No byte is written."""
    server.flushall()
    dry_run = take_request(USER, 2 * MICRO, shadow=TRIED, dry_run=True)
    unchanged = Outcome(True, (3 * MICRO,), Outcome(False, (MICRO,)))  # noqa: FBT003 - the field `allowed`
    assert run(server, [dry_run] * 2, NOW) == [unchanged] * 2
    assert stored(server) == {}
    run(server, [take_request(USER, 2 * MICRO)], NOW)
    before = stored(server)
    free = take_request(USER, 0, shadow=TRIED)
    assert [outcome.allowed for outcome in run(server, [dry_run, free], NOW)] == [False, True]
    assert stored(server) == before


def test_a_changed_limit_refills_nothing(server: Any) -> None:
    """More capacity gives no tokens, less takes those above it; a bucket under a new name starts full."""
    server.flushall()
    run(server, [take_request(USER, 2 * MICRO)], NOW)

    def left(key: str, limit: Limit) -> int | None:
        dry_run = take_request({key: limit}, dry_run=True)
        return run(server, [dry_run], NOW)[0].tokens[0]

    assert left("a", Limit(100, 0.001)) == MICRO
    assert left("a", Limit(1, 0.001)) == MICRO
    run(server, [take_request({"c": Limit(9, 0.001)})], NOW)
    assert left("c", Limit(5, 0.001)) == 5 * MICRO
    assert left("renamed", Limit(100, 0.001)) == 100 * MICRO


@pytest.mark.parametrize("path", sorted(resource("lua").glob("*.lua")), ids=lambda path: path.name)
def test_every_script_says_what_it_takes_and_returns(path: Any) -> None:
    """The header has all five labels."""
    header = path.read_text().partition("]]")[0]
    for label in ("KEYS", "ARGV", "RETURN", "INVARIANT", "COMPLEXITY"):
        assert re.search(rf"^{label}\b", header, re.MULTILINE), label
