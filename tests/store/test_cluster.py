"""Tests of servers of another kind than the URL says, on real ones."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.core.model import MICRO, Charge, Limit, TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import connector, open_client, refuse_unsupported, store_errors
from ratelimitd.store.connections import TcpConnection
from ratelimitd.store.link import Link
from ratelimitd.store.reply_errors import CLUSTER
from ratelimitd.store.server_kind import Server
from tests.redis_cluster import cluster_mode, redis_cluster
from tests.redis_server import redis_server
from tests.script_limiter import take_batch
from tests.store.server import execute
from tests.system import command
from tests.system.processes import end_of, line_with, run, started

ENVOY_CONFIG = Path(__file__).parents[2] / "envoy" / "envoy.yaml"

NODE = r"127.0.0.1:\d+"


pytestmark = pytest.mark.xdist_group("refused-cluster")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    """Runs a cluster of two nodes. Yields the URL that names the first one as a single server."""
    async with redis_cluster(2) as cluster:
        yield f"redis://{cluster.members[0].address}"


def refusal(url: str) -> str:
    """Returns the reason to refuse the cluster at this URL of one server."""
    address = url.removeprefix("redis://")
    return f"{address} is a node of a Redis Cluster; expected redis+cluster://{address}"


async def test_every_connection_to_a_cluster_is_refused(url: str) -> None:
    async with open_client(url) as client:
        with (
            pytest.raises(StoreError, match=f"^the store failed: {re.escape(refusal(url))}$"),
            store_errors(),
        ):
            await client.get("rate_limit:config")
    async with Link(connector(url)) as link:
        with pytest.raises(NotConnectedError, match=f"^{re.escape(refusal(url))}$"):
            await execute(link, "GET", "k")
    with pytest.raises(StoreError, match=f"^the store cannot be used: {re.escape(refusal(url))}$"):
        await refuse_unsupported(url)


@pytest.mark.parametrize("without", [(), ("--rename-command", "HELLO", "")])
@pytest.mark.parametrize("database", ["", "/1"])
@pytest.mark.parametrize(
    ("sentinel", "reason"),
    [
        (
            True,
            f"{NODE} is a Redis Sentinel, which holds no data; expected redis\\+sentinel://{NODE}/SERVICE",
        ),
        (False, f"{NODE} is a node of a Redis Cluster; expected redis\\+cluster://{NODE}"),
    ],
)
async def test_a_sentinel_and_a_node_without_slots_are_refused(
    sentinel: bool,  # noqa: FBT001 - a parameter of the test
    reason: str,
    database: str,
    without: tuple[str, ...],
) -> None:
    options = () if sentinel else cluster_mode()
    async with redis_server(*options, *without, sentinel=sentinel) as (address, _):
        with pytest.raises(StoreError, match=f"^the store cannot be used: {reason}$"):
            await refuse_unsupported(f"redis://{address}{database}")


async def test_a_store_that_is_away_is_not_refused() -> None:
    await refuse_unsupported("unix:///nowhere.sock")


def is_one_sentence(text: str, url: str) -> bool:
    """Returns whether an output is the sentence about the cluster at this URL and nothing else."""
    return (
        text.startswith("ratelimitd: the store ")
        and text.endswith(f": {refusal(url)}\n")
        and text.count("\n") == 1
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--transport", "fast", "--listen", "127.0.0.1:0"),
        ("admin", "--admin-listen", "127.0.0.1:0"),
        ("envoy", "--config", str(ENVOY_CONFIG)),
    ],
)
async def test_a_service_does_not_start_on_a_cluster(arguments: tuple[str, ...], url: str) -> None:
    status, output = await run(*arguments, env={"RATELIMITD_REDIS_URL": url})
    assert (status, is_one_sentence(output, url)) == (1, True), output


@pytest.mark.parametrize(
    "arguments",
    [
        ("policy", "status"),
        ("policy", "show"),
        ("policy", "rollback", "1"),
        ("bucket", "show", "u1"),
        ("bucket", "reset", "u1", "--yes"),
        ("explain", "--user", "u1", "--path", "/"),
    ],
)
async def test_every_other_command_names_the_cluster(arguments: tuple[str, ...], url: str) -> None:
    done = await command.run(*arguments, "--redis-url", url)
    assert (done.status, done.out, is_one_sentence(done.err, url)) == (1, "", True), done.err


async def test_a_cluster_that_replaces_the_store_is_logged() -> None:
    async with AsyncExitStack() as first:
        address, _ = await first.enter_async_context(redis_server())
        arguments = ("serve", "--transport", "grpcio", "--redis-url", f"redis://{address}")
        async with started(*arguments, "--listen", "127.0.0.1:0", "--leave-s", "0") as process:
            await line_with(process, '"listening"')
            await first.aclose()
            async with redis_server(*cluster_mode(), port=int(address.rpartition(":")[2])):
                await line_with(process, refusal(f"redis://{address}"))
            process.terminate()
            assert (await end_of(process))[0] == 0


@pytest.mark.parametrize(("keys", "code"), [(("a", "b"), "CROSSSLOT"), (("{foo}", "{foo}2"), "MOVED")])
async def test_errors_of_an_undetected_cluster_keep_their_code(
    keys: tuple[str, ...], code: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may not answer HELLO."""

    async def accept(_connection: TcpConnection, _server: Server) -> None:
        """Refuses no server."""

    monkeypatch.setattr(TcpConnection, "check_server", accept)
    charge = Charge(cost=MICRO, limits=(Limit(1, 1), Limit(1, 1)))
    async with Link(connector(url)) as link:
        with pytest.raises(StoreError, match=rf"^the store failed: {code} .* \({re.escape(CLUSTER)}\)"):
            await take_batch(RedisLimiter(link), [TakeRequest(charge, keys)])


@pytest.mark.parametrize("without", [(), ("--rename-command", "HELLO", "")])
async def test_a_server_that_is_not_in_a_cluster_is_refused(without: tuple[str, ...]) -> None:
    async with redis_server(*without) as (address, _):
        url = f"redis+cluster://{address}"
        reason = f"{address} is not a node of a Redis Cluster; expected redis://{address}"
        with pytest.raises(StoreError, match=f"^the store cannot be used: {re.escape(reason)}$"):
            await refuse_unsupported(url)
        async with open_client(url) as client:
            with pytest.raises(StoreError, match=f"^the store failed: {re.escape(reason)}$"), store_errors():
                await client.get("rate_limit:config")
        if without:
            return
        status, output = await run("serve", "--listen", "127.0.0.1:0", env={"RATELIMITD_REDIS_URL": url})
        assert (status, output) == (1, f"ratelimitd: the store cannot be used: {reason}\n")


async def test_a_cluster_that_is_away_is_not_refused() -> None:
    await refuse_unsupported(f"redis+cluster://127.0.0.1:{free_port()}")
