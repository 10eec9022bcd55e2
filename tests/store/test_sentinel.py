"""Finding the master through real Sentinels, and the sentences about a URL that is wrong."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.errors import StoreError
from ratelimitd.process.loopback import free_port
from ratelimitd.store.access import StoreAccess, access_to
from ratelimitd.store.client import connector, open_client, refuse_unsupported, store_errors
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.link import Link
from ratelimitd.store.sentinel import Sentinels, locating
from ratelimitd.store_source import StoreSource
from ratelimitd.store_url import Node
from tests.redis_server import redis_server
from tests.self_signed import make_certificate
from tests.sentinels import SERVICE, Sentineled, host_and_port, sentineled
from tests.store.server import execute

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORES = Path(__file__).parents[2] / "docs" / "store.md"

DEAD = f"127.0.0.1:{free_port()}"

SECRET = "hunter2"  # noqa: S105 - it is meant to be found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[Sentineled]:
    """Runs a store that no test of this module changes."""
    async with sentineled() as running:
        yield running


async def survey(url: str) -> tuple[set[Node], dict[str, str]]:
    """Returns the masters that the Sentinels of a URL name, and the failures by the port of the Sentinel."""
    async with locating(access_to(url)) as sentinels:
        assert isinstance(sentinels, Sentinels)
        found = await sentinels.survey()
    return {*found.masters}, {str(node): str(error) for node, error in found.failures.items()}


async def test_a_client_and_a_link_reach_the_master(store: Sentineled) -> None:
    async with open_client(store.url) as client:
        await client.set("k", "v")
        async with Link(connector(store.url, pool_of(client).locate)) as link:
            assert await execute(link, "GET", "k") == b"v"
            assert await store.servers[0].client.get("k") == b"v"


async def test_the_database_of_the_url_is_that_of_the_master(store: Sentineled) -> None:
    async with open_client(f"{store.url}/3") as client:
        await client.set("in-3", "v")
        assert (await store.servers[0].client.info("keyspace"))["db3"]["keys"] == 1


async def test_sentinels_that_do_not_help_are_passed_over(store: Sentineled) -> None:
    """One is down, one does not know the service, and one is an ordinary Redis."""
    async with redis_server(sentinel=True) as (ignorant, _):
        useful, plain = store.sentinels[0].address, store.servers[1].address
        url = f"redis+sentinel://{DEAD},{ignorant},{plain},{useful}/{SERVICE}"
        masters, failures = await survey(url)
        await refuse_unsupported(url)
    assert masters == {Node("127.0.0.1", store.servers[0].port)}
    assert failures.keys() == {DEAD, ignorant, plain}
    assert "does not watch a master named 'main'" in failures[ignorant]
    assert "is a store and not a Sentinel" in failures[plain]
    assert "Connect call failed" in failures[DEAD]


async def test_a_sentinel_that_hangs_is_passed_over(store: Sentineled) -> None:
    hanging = store.sentinels[0]
    hanging.signal(signal.SIGSTOP)
    try:
        masters, failures = await survey(store.url)
    finally:
        hanging.signal(signal.SIGCONT)
    assert (masters, {*failures}) == ({Node("127.0.0.1", store.servers[0].port)}, {hanging.address})


async def test_a_question_that_a_change_of_the_url_interrupts_is_an_error(tmp_path: Path) -> None:
    """A cancellation instead would end the attempts of a link to connect."""
    asked = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    url = tmp_path / "url"
    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as silent:
        url.write_text(f"redis+sentinel://127.0.0.1:{silent.sockets[0].getsockname()[1]}/{SERVICE}")
        access = StoreAccess(StoreSource(url_file=str(url)))
        async with locating(access) as sentinels:
            assert isinstance(sentinels, Sentinels)
            interrupted = asyncio.create_task(sentinels.survey())
            await asked.wait()
            url.write_text(f"redis+sentinel://{DEAD}/{SERVICE}")
            access.refresh()
            for survey_of_two in (sentinels.survey(), interrupted):
                with pytest.raises(NotConnectedError, match="no Sentinel names the master"):
                    await survey_of_two
        ended.set()


async def test_a_start_goes_on_while_the_sentinels_are_away() -> None:
    url = f"redis+sentinel://{DEAD}/{SERVICE}"
    await refuse_unsupported(url)
    async with open_client(url) as client:
        with (
            pytest.raises(StoreError, match=rf"no Sentinel names the master 'main': .*{DEAD}"),
            store_errors(),
        ):
            await client.ping()


async def test_a_url_that_is_wrong_is_refused_with_the_right_one(store: Sentineled) -> None:
    sentinel, plain = store.sentinels[0].address, store.servers[0].address
    reasons = {
        f"redis://{sentinel}/0": f"{sentinel} is a Redis Sentinel, which holds no data; "
        f"expected redis+sentinel://{sentinel}/{SERVICE}",
        f"redis+sentinel://{plain}/{SERVICE}": f"{plain} is a store and not a Sentinel; "
        f"expected redis://{plain}, or the ports of the Sentinels, which are 26379 by default",
        f"redis+sentinel://{sentinel}/other": f"the Sentinel {sentinel} does not watch a master named "
        f"'other'; it watches {SERVICE}",
    }
    for url, reason in reasons.items():
        with pytest.raises(StoreError) as error:
            await refuse_unsupported(url)
        assert str(error.value) == f"the store cannot be used: {reason}"


async def test_a_sentinel_at_a_socket_is_refused_with_a_sentence(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with redis_server("--unixsocket", str(socket), sentinel=True) as (_, client):
        await client.sentinel_monitor(SERVICE, "127.0.0.1", 1, 1)
        sentence = (
            "the store cannot be used: the server at the socket is a Redis Sentinel, which holds no data; "
            f"expected redis+sentinel://HOST:PORT/{SERVICE}"
        )
        with pytest.raises(StoreError, match=f"^{re.escape(sentence)}$"):
            await refuse_unsupported(f"unix://{socket}")


async def test_a_node_of_a_cluster_instead_of_a_sentinel_is_named() -> None:
    async with redis_server("--cluster-enabled", "yes") as (address, _):
        with pytest.raises(
            StoreError, match=rf"a node of a Redis Cluster .*; expected redis\+cluster://{address}$"
        ):
            await refuse_unsupported(f"redis+sentinel://{address}/{SERVICE}")


async def test_a_replica_that_a_sentinel_names_is_not_used(store: Sentineled) -> None:
    """As when a Sentinel starts from an old configuration."""
    async with redis_server(sentinel=True) as (address, sentinel):
        await sentinel.sentinel_monitor(SERVICE, "127.0.0.1", store.servers[1].port, 1)
        async with open_client(f"redis+sentinel://{address}/{SERVICE}") as client:
            with (
                pytest.raises(StoreError, match="was located as the master, but is a replica"),
                store_errors(),
            ):
                await client.ping()


async def test_sentinels_have_credentials_of_their_own(tmp_path: Path) -> None:
    """The documented permissions are enough, and no error shows a password."""
    async with redis_server() as (master, admin), redis_server(sentinel=True) as (sentinel, client):
        await admin.config_set("requirepass", "master")
        await client.sentinel_monitor(SERVICE, *host_and_port(master), 1)
        line = re.search(r"^ACL SETUSER ratelimitd (.*PASSWORD.*)$", STORES.read_text(), re.MULTILINE)
        assert line is not None
        rules = line[1].replace("PASSWORD", SECRET).split()
        await client.execute_command("ACL", "SETUSER", "app", *rules)  # type: ignore[no-untyped-call] # it is untyped
        await client.acl_setuser("default", enabled=False)  # the open connection of this client stays
        url = f"redis+sentinel://:master@{sentinel}/{SERVICE}"
        async with open_client(f"{url}?sentinel_username=app&sentinel_password={SECRET}") as allowed:
            assert await allowed.ping()
        file = tmp_path / "password"
        file.write_text(SECRET)
        source = StoreSource(url, sentinel_username="app", sentinel_password_file=str(file))
        async with open_client(StoreAccess(source)) as allowed:
            assert await allowed.ping()
        assert await client.acl_log() == []
        reason = (
            r"(NOAUTH|WRONGPASS).* \(the credentials come from the options sentinel_username and "
            r"sentinel_password of the URL, or RATELIMITD_SENTINEL_PASSWORD_FILE\)"
        )
        for query in ("", "?sentinel_username=app&sentinel_password=not-it"):
            async with open_client(url + query) as refused:
                with pytest.raises(StoreError, match=reason) as error, store_errors():
                    await refused.ping()
                assert "not-it" not in str(error.value)


@pytest.mark.parametrize("sentinels_too", [True, False])
async def test_sentinels_share_tls_with_the_store_unless_it_is_turned_off(
    tmp_path: Path,
    sentinels_too: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    cert, key = make_certificate(tmp_path, "localhost")

    def tls(port: int) -> tuple[str, ...]:
        files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert))
        return ("--tls-port", str(port), *files, "--tls-auth-clients", "no")

    port, sentinel_port = free_port(), free_port()
    async with redis_server(*tls(port)), redis_server(*tls(sentinel_port), sentinel=True) as (plain, client):
        await client.execute_command("SENTINEL", "CONFIG", "SET", "resolve-hostnames", "yes")  # type: ignore[no-untyped-call] # it is untyped
        await client.sentinel_monitor(SERVICE, "localhost", port, 1)
        await client.execute_command("SENTINEL", "CONFIG", "SET", "announce-hostnames", "yes")  # type: ignore[no-untyped-call] # it is untyped
        sentinel = f"localhost:{sentinel_port}" if sentinels_too else plain
        option = "" if sentinels_too else "&sentinel_tls=false"
        url = f"rediss+sentinel://{sentinel}/{SERVICE}?ssl_ca_certs={cert}{option}"
        async with open_client(url) as store:
            assert await store.ping()


async def test_the_answer_with_the_highest_epoch_wins() -> None:
    """A Sentinel that was cut off together with an old master names that one, and comes first in the URL."""
    async with (
        sentineled() as store,
        redis_server() as (cut_off, _),
        redis_server(sentinel=True) as (late, sentinel),
    ):
        await sentinel.sentinel_monitor(SERVICE, *host_and_port(cut_off), 1)
        new = await store.fail_over()
        masters, failures = await survey(store.url.replace("//", f"//{late},"))
    assert (masters, failures) == ({Node("127.0.0.1", new.port)}, {})
