"""Tests of connections with TLS, on a real Redis with certificates made for the test."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from ratelimitd.errors import StoreError
from ratelimitd.process.loopback import free_port
from ratelimitd.store.access import access_to
from ratelimitd.store.client import connector, open_client, refuse_unsupported, store_errors
from ratelimitd.store.link import Link
from tests.authority import Authority
from tests.redis_server import redis_server
from tests.self_signed import make_certificate
from tests.store.server import execute

NAME = "localhost"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with cert.pem, which signs itself and is valid for NAME, and its key.pem."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder, NAME)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(folder: Path) -> AsyncIterator[int]:
    """Runs a Redis that wants a client's certificate. Yields its port for TLS."""
    port, cert, key = free_port(), folder / "cert.pem", folder / "key.pem"
    tls = ("--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    async with redis_server(*tls, "--tls-ca-cert-file", str(cert)):
        yield port


def options(folder: Path, *others: str) -> str:
    """Returns the query of a URL with the client's certificate."""
    return "&".join((f"?ssl_certfile={folder}/cert.pem", f"ssl_keyfile={folder}/key.pem", *others))


@pytest.mark.parametrize(
    ("host", "others"),
    [
        (NAME, ["ssl_ca_certs={}/cert.pem", "ssl_min_version=TLSv1.3"]),
        ("127.0.0.1", ["ssl_ca_certs={}/cert.pem", "ssl_check_hostname=false"]),
        ("127.0.0.1", ["ssl_cert_reqs=none"]),
        ("127.0.0.1", [f"ssl_server_name={NAME}", "ssl_ca_certs={}/cert.pem"]),
    ],
)
async def test_the_options_for_tls_work(host: str, others: list[str], port: int, folder: Path) -> None:
    url = f"rediss://{host}:{port}/3{options(folder, *others)}".format(folder)
    async with open_client(url) as client:
        assert await client.ping()
    async with Link(connector(url)) as link:
        assert await execute(link, "PING") == b"PONG"


@pytest.mark.parametrize(
    ("host", "others", "reason"),
    [
        (NAME, [], "CERTIFICATE_VERIFY_FAILED.*self-signed"),
        (NAME, ["ssl_cert_reqs=optional"], "CERTIFICATE_VERIFY_FAILED.*self-signed"),
        ("127.0.0.1", ["ssl_ca_certs={}/cert.pem"], "IP address mismatch"),
        (NAME, ["ssl_ca_certs={}/cert.pem", "ssl_server_name=other"], "Hostname mismatch"),
    ],
)
async def test_a_certificate_that_is_not_valid_is_refused(
    host: str, others: list[str], reason: str, port: int, folder: Path
) -> None:
    async with open_client(f"rediss://{host}:{port}{options(folder, *others)}".format(folder)) as client:
        with pytest.raises(StoreError, match=f"connecting to {host}:{port}.*{reason}"), store_errors():
            await client.ping()


async def refusal(url: str) -> str:
    """Returns the sentence with which a start refuses a URL."""
    with pytest.raises(StoreError) as refused:
        await refuse_unsupported(url)
    return str(refused.value)


@pytest.mark.parametrize(
    ("host", "query", "reason"),
    [
        (
            "127.0.0.1",
            "{client}&ssl_ca_certs={own}",
            "the certificate of {server} is not valid for 127.0.0.1; ",
        ),
        (
            NAME,
            "{client}&ssl_ca_certs={own}&ssl_server_name=x",
            "the certificate of {server} is not valid for x; ",
        ),
        (
            NAME,
            "{client}",
            "the certificate of {server} is signed by an unknown CA (self-signed certificate); ",
        ),
        (NAME, "ssl_ca_certs={own}", "{server} requires a certificate of the client; expected ssl_certfile"),
        (
            NAME,
            "ssl_ca_certs={own}&ssl_certfile={other}/cert.pem&ssl_keyfile={other}/key.pem",
            "{server} refused the TLS handshake, perhaps for the client's certificate: unknown ca",
        ),
    ],
)
async def test_a_start_says_what_is_wrong_with_a_certificate(
    host: str, query: str, reason: str, port: int, folder: Path
) -> None:
    other = folder / "other"
    if not other.exists():
        other.mkdir()
        make_certificate(other, "other")
    client = options(folder).removeprefix("?")
    query = query.format(client=client, own=folder / "cert.pem", other=other)
    sentence = await refusal(f"rediss://{host}:{port}?{query}")
    assert sentence.startswith("the store cannot be used: " + reason.format(server=f"{host}:{port}"))


async def test_a_start_says_that_a_certificate_has_expired(tmp_path: Path) -> None:
    expired = Authority(tmp_path, "ca").issue(NAME, days=-1)
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", expired.certificate, "--tls-key-file", expired.key)
    async with redis_server(*tls, "--tls-ca-cert-file", expired.ca, "--tls-auth-clients", "no"):
        sentence = await refusal(f"rediss://{NAME}:{port}?ssl_ca_certs={expired.ca}")
    assert sentence == f"the store cannot be used: the certificate of {NAME}:{port} has expired"


async def test_a_start_says_which_side_lacks_tls(port: int) -> None:
    assert await refusal(f"redis://{NAME}:{port}") == (
        f"the store cannot be used: {NAME}:{port} uses TLS; "
        "expected a URL that begins with rediss instead of redis"
    )
    async with redis_server() as (plain, _):
        assert await refusal(f"rediss://{plain}") == (
            f"the store cannot be used: {plain} does not use TLS; "
            "expected a URL that begins with redis instead of rediss"
        )


async def test_a_start_does_not_wait_for_a_store_that_is_down() -> None:
    for scheme in ("redis", "rediss"):
        await refuse_unsupported(f"{scheme}://127.0.0.1:{free_port()}")


async def test_the_next_connection_uses_a_renewed_certificate_of_the_client(
    tmp_path: Path,
) -> None:
    old, new = Authority(tmp_path, "old-ca"), Authority(tmp_path, "new-ca")
    server, port = old.issue(NAME, file="server"), free_port()
    client = old.issue("client")
    renewed = new.issue("client", file="renewed")
    tls = ("--tls-port", str(port), "--tls-cert-file", server.certificate, "--tls-key-file", server.key)
    url = f"rediss://{NAME}:{port}?ssl_ca_certs={old.file}&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    access = access_to(url)
    async with (
        redis_server(*tls, "--tls-ca-cert-file", old.file) as (_, store),
        open_client(access) as opened,
    ):

        async def connects() -> bool:
            await opened.connection_pool.disconnect()
            with suppress(StoreError), store_errors():
                return bool(await opened.ping())
            return False

        assert await connects()
        await store.config_set("tls-ca-cert-file", new.file)
        assert not await connects()
        with capture_logs() as logs:
            Path(client.certificate).write_text(Path(renewed.certificate).read_text())
            assert not await connects()  # the key is still the old one, so the old certificate stays in use
            assert not await connects()
        assert [(line["event"], line["setting"]) for line in logs] == [
            ("store_file_refused", "RATELIMITD_REDIS_URL")
        ]
        assert "KEY_VALUES_MISMATCH" in logs[0]["reason"]
        Path(client.key).write_text(Path(renewed.key).read_text())
        assert await connects()
        assert access.version == 0  # connections with the old certificate may stay
