"""Tests of connections with TLS, on a real Redis with certificates made for the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ratelimitd.errors import StoreError
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import connector, open_client, store_errors
from ratelimitd.store.link import Link
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
    ],
)
async def test_a_certificate_that_is_not_valid_is_refused(
    host: str, others: list[str], reason: str, port: int, folder: Path
) -> None:
    async with open_client(f"rediss://{host}:{port}{options(folder, *others)}".format(folder)) as client:
        with pytest.raises(StoreError, match=f"connecting to {host}:{port}.*{reason}"), store_errors():
            await client.ping()
