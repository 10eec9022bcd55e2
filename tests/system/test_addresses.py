"""The address header through a running service, on both transports."""

import json
import signal

import pytest
from redis.asyncio import Redis

from tests.eventually import eventually
from tests.example_limits import NO_REFILL, limits_json
from tests.system import command
from tests.system.processes import end_of, line_with, started

pytestmark = pytest.mark.usefixtures("operator")

PROXY = "10.0.0.1"

READABLE = {
    "203.0.113.9:4431": "ip=203.0.113.9",
    '"[2001:db8::1]:443"': "ip=2001%3Adb8%3A%3A%2F64",
    "for=198.51.100.7;proto=https": "ip=198.51.100.7",
    "64:ff9b::808:808": "ip=8.8.8.8",
    "[64:ff9b::909:909]:443": "ip=9.9.9.9",
}
UNREADABLE = ["203.0.113.9, 198.51.100.7", "unknown", "x" * 5000, None]


async def checked(target: str, value: str | None) -> None:
    """Sends a request of the proxy with this value of the address header, or without the header."""
    ask = ("check", "--path", "/", "--address", PROXY, "--target", target, "--timeout-s", "10")
    done = await command.run(*ask, *(() if value is None else ("--header", f"x-client={value}")))
    assert done.status == 0, done


async def charged(store: Redis) -> set[str]:
    """Returns the identities that have a bucket of the tier `user`."""
    keys: list[bytes] = await store.keys("rate:user:*")  # type: ignore[assignment] # it decodes nothing
    return {key.decode().split(":")[2] for key in keys}


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_address_header_is_read_and_unreadable_values_are_reported(
    store: Redis, store_url: str, transport: str
) -> None:
    await command.apply(
        limits_json(user_api_capacity=4, **NO_REFILL)
    )  # without a refill no bucket expires during the test
    flags = ("--address-header", "X-Client", "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", "--transport", transport, "--redis-url", store_url, *flags) as process:
        target = json.loads(await line_with(process, '"listening"'))["address"]
        for value in READABLE:
            await checked(target, value)
        keys = set(READABLE.values())
        assert await charged(store) == keys
        assert 'unreadable_addresses": 0' in (await command.run("policy", "status", "--json")).out
        assert "address header" not in (await command.run("policy", "status")).out

        for unreadable in UNREADABLE:
            await checked(target, unreadable)
        assert await charged(store) == keys | {f"ip={PROXY}"}

        async def reported() -> bool:
            out = (await command.run("policy", "status")).out
            return "held no IP address: 4; the log line" in out

        await eventually(reported, "unreadable addresses in the status")
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in (await end_of(process))[1].splitlines()]
    found = [line for line in lines if line["event"] == "address_unreadable"]
    assert [line["count"] for line in found] == [1, 2, 3, 4]
    assert [line["value"] for line in found] == [*UNREADABLE[:2], "x" * 100, None]
    assert {line["header"] for line in found} == {"x-client"}
    assert [line["reason"] for line in found] == [
        "a list, expected one address",
        "not an IP address",
        "not an IP address",
        "the header is missing",
    ]


@pytest.mark.parametrize("header", ["X-Client", "CloudFront-Viewer-Address"])
async def test_an_operators_address_stands_also_in_the_address_header(
    monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.setenv("RATELIMITD_ADDRESS_HEADER", header)
    explain = ("explain", "--path", "/", "--json", "--address", "[64:ff9b::808:808]:443")
    assert (await command.run(*explain)).json["identity"]["key"] == "ip=8.8.8.8"
    other = await command.run(*explain, "--header", f"{header}=203.0.113.9:80")
    assert other.json["identity"]["key"] == "ip=203.0.113.9"


@pytest.mark.parametrize(
    "address", ["203.0.113.9:4431", "[203.0.113.9]", "::ffff:203.0.113.9", "2002:cb00:7109::1"]
)
async def test_operators_may_give_an_address_as_a_proxy_writes_it(store: Redis, address: str) -> None:
    await store.hset("rate:user:ip=203.0.113.9", mapping={"tokens": 0, "last": 1})
    explained = await command.run("explain", "--path", "/", "--address", address, "--json")
    assert explained.json["identity"]["key"] == "ip=203.0.113.9"
    shown = await command.run("bucket", "show", "--address", address, "--json")
    assert [bucket["key"] for bucket in shown.json["buckets"]] == ["rate:user:ip=203.0.113.9"]
    reset = await command.run("bucket", "reset", "--address", address, "--yes", "--json")
    assert reset.json == {"deleted": ["rate:user:ip=203.0.113.9"]}
