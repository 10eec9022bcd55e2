"""TLS of the listener, with both transports: whom it accepts, and certificates that change while it runs."""

import asyncio
import itertools
import shutil
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from ratelimitd.address import TcpAddress
from ratelimitd.certificates import CertificateFiles, ClientTls, ServerTls
from ratelimitd.errors import CertificateError, CheckCallError
from ratelimitd.transport.client import check_service
from ratelimitd.transport.fast import tls as fast_tls
from ratelimitd.transport.listener import Listener
from tests.authority import Authority
from tests.core.fakes import OracleLimiter
from tests.eventually import eventually
from tests.transport import test_conformance
from tests.transport.conftest import Serve, Service, TlsAddress, channel_to, serve_in_process
from tests.transport.test_client import user_request
from tests.transport.test_conformance import SERVICES, HeldLimiter, check_request, method_of

USERS = itertools.count(1)
"""Users that have not called before."""

URI = "spiffe://example.org/ns/edge/sa/envoy"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Returns an authority that the service and its clients trust."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Returns an authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("foreign"), "foreign")


@pytest.fixture(scope="module")
def envoy(authority: Authority) -> CertificateFiles:
    """Returns the files of a client."""
    return authority.issue("envoy")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> CertificateFiles:
    """Returns the files of the service: files of its own in a folder, as a Kubernetes secret has them."""
    issued = authority.issue("service", "IP:127.0.0.1")
    return CertificateFiles(*(str(shutil.copy(name, tmp_path)) for name in issued))


def tls_address(listener: Listener, client: CertificateFiles) -> TlsAddress:
    """Returns the address of a service, for calls of this client."""
    assert isinstance(listener.address, TcpAddress)
    return TlsAddress(listener.address.host, listener.address.port, ClientTls(client))


async def outcome(listener: Listener, tls: ClientTls | None) -> str:
    """Returns `allowed`, or the reason why the service cannot be called."""
    try:
        request = user_request(f"user{next(USERS)}")
        return (await check_service(str(listener.address), request, timeout_s=10, tls=tls)).outcome
    except CheckCallError as error:
        return str(error).removeprefix(f"{listener.address} does not answer: ")


async def test_clients_with_an_allowed_certificate_are_served_and_others_are_refused(
    serve: Serve,
    files: CertificateFiles,
    authority: Authority,
    foreign: Authority,
    envoy: CertificateFiles,
) -> None:
    limiter = OracleLimiter()
    async with serve(
        limiter, tls=ServerTls(files, ("ENVOY", "a.edge.example", URI, "192.0.2.1"))
    ) as listener:
        await _refuses_other_certificates(listener, authority, foreign)
        assert limiter.buckets == {}
        for client in (
            envoy,
            authority.issue("by-uri", f"URI:{URI}"),
            authority.issue("by-address", "IP:192.0.2.1"),
        ):
            assert await outcome(listener, ClientTls(client)) == "allowed"
        await _is_trusted_by_its_authority_and_name(listener, envoy, foreign)
        await _serves_as_without_tls(Service(tls_address(listener, envoy), limiter))


async def _refuses_other_certificates(listener: Listener, authority: Authority, foreign: Authority) -> None:
    strange = foreign.issue("envoy", ca=authority.file)
    stranger = authority.issue(
        "stranger", f"URI:{URI}2", "IP:192.0.2.11", "DNS:envoy.example", "DNS:*.edge.example"
    )
    for client in (CertificateFiles("", "", authority.file), strange):
        assert (await outcome(listener, ClientTls(client))).startswith("UNAVAILABLE")
    expired = authority.issue("old", days=-1)
    assert await outcome(listener, ClientTls(expired)) == (
        f"the first certificate in {expired.certificate} is not valid: certificate has expired"
    )
    assert (await outcome(listener, None)).startswith("UNAVAILABLE")
    assert await outcome(listener, ClientTls(stranger)) != "allowed"
    async with channel_to(tls_address(listener, stranger)) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


async def _is_trusted_by_its_authority_and_name(
    listener: Listener, client: CertificateFiles, foreign: Authority
) -> None:
    assert await outcome(listener, ClientTls(client._replace(ca=foreign.file))) == (
        f"UNAVAILABLE, its certificate is not of an authority in {foreign.file}"
    )
    assert await outcome(listener, ClientTls(client, "service")) == "allowed"
    assert await outcome(listener, ClientTls(client, "elsewhere")) == (
        "UNAVAILABLE, its certificate does not have the name elsewhere"
    )


async def _serves_as_without_tls(service: Service) -> None:
    """Runs cases of test_conformance.py, whose user is used by nothing else here."""
    for name in SERVICES:
        await test_conformance.test_health_is_serving_for_the_process_and_the_service(service, name)
    await test_conformance.test_reflection_lists_the_services_and_describes_their_types(service)
    await test_conformance.test_each_of_many_concurrent_calls_gets_its_answer(service)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_without_client_authorities_no_certificate_is_needed(
    serve: Serve, files: CertificateFiles
) -> None:
    async with serve(OracleLimiter(), tls=ServerTls(files._replace(ca=""))) as listener:
        assert await outcome(listener, ClientTls(CertificateFiles("", "", files.ca))) == "allowed"
        assert await asyncio.to_thread(protocols, listener, ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
        assert await asyncio.to_thread(protocols, listener, ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(protocols, listener, ssl.TLSVersion.TLSv1_1)


def protocols(listener: Listener, version: ssl.TLSVersion) -> tuple[str | None, str | None]:
    """Returns the version of TLS and the protocol of a connection for which the client allows one version."""
    assert isinstance(listener.address, TcpAddress)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1", "h2"])
    plain = socket.create_connection((listener.address.host, listener.address.port), timeout=10)
    with plain, context.wrap_socket(plain) as connection:
        return connection.version(), connection.selected_alpn_protocol()


async def test_a_new_certificate_is_used_for_new_connections_and_ends_no_old_one(
    serve: Serve,
    files: CertificateFiles,
    envoy: CertificateFiles,
    foreign: Authority,
    host_folders: Path,
) -> None:
    new = foreign.issue("service", "IP:127.0.0.1")
    limiter = HeldLimiter()
    count = 0 if serve is serve_in_process else 1
    with capture_logs() as lines:
        async with (
            serve(limiter, tls=ServerTls(files)) as listener,
            channel_to(tls_address(listener, envoy)) as channel,
        ):
            call = method_of(channel)(bytes(check_request()))
            await limiter.reached.wait()
            assert content_of(host_folders) == [(0o700, ["clients", "expiry"])] * count
            # cert-manager and Kubernetes replace a symbolic link.
            for name, other in zip(files[:2], new[:2], strict=True):
                link = Path(f"{name}.new")
                link.symlink_to(other)
                link.replace(name)

            await presented(listener, envoy._replace(ca=foreign.file))
            await eventually(logged(lines, 1), "the line about the change")
            assert content_of(host_folders) == [(0o700, ["clients", "expiry"])] * count
            assert (await outcome(listener, ClientTls(envoy))).startswith("UNAVAILABLE")
            limiter.release.set()
            assert await call
            assert await method_of(channel)(bytes(check_request()), timeout=10)
    assert [line["event"] for line in lines] == ["tls_certificates_changed"]
    assert content_of(host_folders) == []


async def presented(listener: Listener, client: CertificateFiles) -> None:
    """Waits until the service presents a certificate that this client accepts."""

    async def accepted() -> bool:
        async with channel_to(tls_address(listener, client)) as channel:
            try:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                return False
        return True

    await eventually(accepted, "the service presents the new certificate")


async def test_files_that_cannot_be_used_are_one_log_line_and_change_nothing(
    serve: Serve, files: CertificateFiles, envoy: CertificateFiles, authority: Authority, foreign: Authority
) -> None:
    certificate, key, ca = (Path(name) for name in files)
    expired = authority.issue("service", "IP:127.0.0.1", days=-1, file="expired")
    new = authority.issue("service", "IP:127.0.0.1", file="new")
    stranger = foreign.issue("envoy", ca=authority.file)
    with capture_logs() as lines:
        async with serve(OracleLimiter(), tls=ServerTls(files)) as listener:

            async def written(count: int) -> None:
                await eventually(logged(lines, count), f"{count} lines")
                assert await outcome(listener, ClientTls(envoy)) == "allowed"

            certificate.unlink()
            await written(1)
            certificate.write_bytes(Path(new.certificate).read_bytes())
            await written(2)
            key.write_bytes(Path(expired.key).read_bytes())
            certificate.write_bytes(Path(expired.certificate).read_bytes())
            await written(3)
            key.write_bytes(Path(new.key).read_bytes())
            certificate.write_bytes(Path(new.certificate).read_bytes())
            await written(4)
            # Other authorities of clients, without another certificate of the service.
            assert await outcome(listener, ClientTls(stranger)) != "allowed"
            ca.write_bytes(Path(authority.file).read_bytes() + Path(foreign.file).read_bytes())
            await presented(listener, stranger)
            await written(5)
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("tls_certificates_refused", f"cannot read {certificate}: No such file or directory"),
        (
            "tls_certificates_refused",
            f"the key in {key} does not belong to the first certificate in {certificate}",
        ),
        (
            "tls_certificates_refused",
            f"the first certificate in {certificate} is not valid: certificate has expired",
        ),
        ("tls_certificates_changed", None),
        ("tls_certificates_changed", None),
    ]


async def test_a_certificate_that_is_not_valid_fails_the_start(serve: Serve, files: CertificateFiles) -> None:
    Path(files.key).write_text("nothing")
    with pytest.raises(CertificateError, match=f"^{files.key} has no private key in PEM format$"):
        async with serve(OracleLimiter(), tls=ServerTls(files)):
            pass


def logged(lines: Sequence[object], count: int) -> Callable[[], Awaitable[bool]]:
    """Returns a condition: the log has this many lines."""

    async def reached() -> bool:
        return len(lines) >= count

    return reached


@pytest.fixture
def host_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where the hosts of `fast` that this test starts get their folders with certificates."""
    folders = tmp_path / "shm"
    folders.mkdir()
    monkeypatch.setattr(fast_tls, "IN_MEMORY", str(folders))
    return folders


def content_of(host_folders: Path) -> list[tuple[int, list[str]]]:
    """Returns the mode of each folder of a host, and the names of its files."""
    return [
        (stat.S_IMODE(folder.stat().st_mode), sorted(path.name for path in folder.iterdir()))
        for folder in host_folders.iterdir()
    ]


async def test_a_proxy_can_ask_over_http_with_tls(
    serve_in_envoy: Serve, files: CertificateFiles, envoy: CertificateFiles, authority: Authority
) -> None:
    with_certificate = ssl.create_default_context(cafile=authority.file)
    with_certificate.load_cert_chain(envoy.certificate, envoy.key)
    without = ssl.create_default_context(cafile=authority.file)
    headers = {"x-forwarded-uri": "/api/ping"}
    async with serve_in_envoy(OracleLimiter(), tls=ServerTls(files, ("envoy",))) as listener:
        url = f"https://{listener.address}/check"
        async with httpx.AsyncClient(verify=with_certificate, trust_env=False) as client:
            response = await client.get(url, headers=headers)
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert (response.status_code, tls.selected_alpn_protocol()) == (200, "http/1.1")
        async with httpx.AsyncClient(verify=without, trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url, headers=headers)
