"""A real Envoy that calls the service with mTLS or over a Unix socket, configured as docs/tls.md says."""

import asyncio
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from ratelimitd.address import Address, TcpAddress, parse_address
from ratelimitd.certificates import CertificateFiles, ServerTls, read_certificates
from ratelimitd.errors import ListenError, SettingsError
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import load
from ratelimitd.transport.binding import free_binding
from tests.authority import Authority
from tests.core.fakes import OracleLimiter
from tests.eventually import eventually
from tests.required_programs import need, unavailable
from tests.system import command
from tests.system.changed_front import Config, changed_front, running_backend
from tests.system.processes import end_of, line_with, run, started
from tests.transport.conftest import serve_in_process

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
FOLDER = "/etc/envoy/tls"
SOCKET = "/run/ratelimitd/ratelimitd.sock"
NOWHERE = ("--redis-url", "unix:///nowhere.sock", "--leave-s", "0")
KEY = "k" * 32
GROUP, MEMBER, STRANGER = 65531, 65532, 65533
BOTH = pytest.mark.parametrize("transport", ["grpcio", "fast"])


def example(name: str, path: str, instead: Path) -> Config:
    """Returns the example of docs/tls.md with this name, with another path in it."""
    found = re.search(rf"<!-- {name} -->\n```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1].replace(path, str(instead)))


def cluster_of(config: Config) -> Config:
    """Returns the cluster of the service."""
    return next(one for one in config["static_resources"]["clusters"] if one["name"] == "ratelimitd")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Returns an authority that both sides trust."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def service(authority: Authority) -> CertificateFiles:
    """Returns the files of the service."""
    return authority.issue("ratelimitd", "IP:127.0.0.1")


def tls_flags(files: CertificateFiles, *more: str) -> tuple[str, ...]:
    """Returns the options of `serve` for mTLS."""
    names = ("--tls-cert-file", "--tls-key-file", "--tls-client-ca-file")
    return (*(word for pair in zip(names, files, strict=True) for word in pair), *more)


def set_check_variables(monkeypatch: pytest.MonkeyPatch, files: CertificateFiles) -> None:
    """Lets commands in this process, and processes that it starts, call the service with these files."""
    for name, path in zip(("CERT", "KEY", "CA"), files, strict=True):
        monkeypatch.setenv(f"RATELIMITD_CHECK_{name}_FILE", path)


@asynccontextmanager
async def serving(listen: str, *flags: str) -> AsyncIterator[Address]:
    """Runs a service in a process of its own. Yields its address."""
    async with started("serve", *NOWHERE, "--on-store-error", "allow", "--listen", listen, *flags) as process:
        yield parse_address(json.loads(await line_with(process, '"listening"'))["address"])
        process.terminate()
        assert (await end_of(process))[0] == 0


@asynccontextmanager
async def front(
    folder: Path, address: Address, change: Callable[[Config], object]
) -> AsyncIterator[httpx.AsyncClient]:
    """Runs an Envoy with a change before the service at `address`. Yields a client of it."""
    replica = address if isinstance(address, TcpAddress) else TcpAddress(LOOPBACK, 1)
    async with (
        running_backend() as backend,
        changed_front(folder, change, replicas=[replica], backend=backend.address) as client,
    ):
        yield client


async def answered(client: httpx.AsyncClient, status: int) -> None:
    """Waits until Envoy answers a limited request with this status."""

    async def same() -> bool:
        return (await client.get("/api/ping")).status_code == status

    await eventually(same, f"status {status}")


def with_mtls(folder: Path, files: CertificateFiles, config: Config) -> None:
    """Changes the cluster of the service as docs/tls.md says, with the files of a client in `folder`."""
    folder.mkdir(exist_ok=True)
    for path, name in zip(files, ("tls.crt", "tls.key", "ca.crt"), strict=True):
        shutil.copy(path, folder / name)
    for name in ("client", "service"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(example(f"secret: {name}", FOLDER, folder)))
    config["node"] = {"id": "front", "cluster": "front"}
    cluster_of(config).update(example("cluster: tls", FOLDER, folder))


@BOTH
async def test_envoy_calls_the_service_with_mtls(
    tmp_path: Path,
    transport: str,
    authority: Authority,
    service: CertificateFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    envoy = authority.issue("envoy")
    own = CertificateFiles(*(str(shutil.copy(path, tmp_path)) for path in service))
    metrics = f"{LOOPBACK}:{free_port()}"
    more = ("--tls-client-names", "envoy", "--metrics-listen", metrics)
    flags = ("--transport", transport, *tls_flags(own, *more))
    change = partial(with_mtls, tmp_path / "tls", envoy)
    async with serving("127.0.0.1:0", *flags) as address, front(tmp_path, address, change) as client:
        await answered(client, 200)
        set_check_variables(monkeypatch, envoy)
        done = await command.run("check", "--path", "/", "--target", str(address), "--json")
        assert done.json["metadata"]["outcome"] == "undecided"
        assert await command.run("health", str(address)) == command.Result(0, "SERVING\n", "")
        await shows_expiry(metrics, own)
        renewed = authority.issue("ratelimitd", "IP:127.0.0.1", days=2, file="renewed")
        for path, name in zip(renewed[:2], own[:2], strict=True):
            Path(path).replace(name)
        await shows_expiry(metrics, own)


async def shows_expiry(metrics: str, files: CertificateFiles) -> None:
    """Waits until the metrics have the time at which the certificate in the files expires."""
    expires_s = read_certificates(files).expires_s

    async def shown() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://{metrics}/metrics")).text
        found = re.search(r"^ratelimitd_tls_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
        return found is not None and float(found[1]) == expires_s

    await eventually(shown, f"the metrics show {expires_s}")


async def test_envoy_reads_its_certificate_again_and_loses_no_request(
    tmp_path: Path, authority: Authority, service: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old authority is no longer trusted by the service once Envoy has a certificate of the new one."""
    folder, new = tmp_path / "tls", Authority(tmp_path, "new")
    own = CertificateFiles(*(str(shutil.copy(path, tmp_path)) for path in service))
    trusted = Path(own.ca)
    trusted.write_bytes(trusted.read_bytes() + Path(new.file).read_bytes())
    change = partial(with_mtls, folder, authority.issue("envoy"))
    flags = ("--transport", "fast", *tls_flags(own, "--max-connection-age-s", "1"))
    async with serving("127.0.0.1:0", *flags) as address, front(tmp_path, address, change) as client:
        await answered(client, 200)
        renewed = new.issue("envoy", file="renewed", ca=authority.file)
        for path, name in zip(renewed[:2], ("tls.crt", "tls.key"), strict=True):
            Path(path).replace(folder / name)
        trusted.write_bytes(Path(new.file).read_bytes())
        set_check_variables(monkeypatch, authority.issue("envoy", file="old"))

        async def old_is_refused() -> bool:
            return (await command.run("health", str(address))).status == 1

        await eventually(old_is_refused, "the service refuses the old authority")
        statuses: Counter[int] = Counter()
        for _ in range(50):
            statuses[(await client.get("/api/ping")).status_code] += 1
        assert statuses == {200: 50}


async def test_envoy_refuses_a_service_with_another_name(tmp_path: Path, authority: Authority) -> None:
    impostor = ServerTls(authority.issue("impostor"))
    change = partial(with_mtls, tmp_path / "tls", authority.issue("envoy"))
    async with (
        serve_in_process(OracleLimiter(), tls=impostor) as listener,
        front(tmp_path, listener.address, change) as client,
    ):
        await answered(client, 503)
        # The first request may have come before any handshake; none may pass after it.
        assert [(await client.get("/api/ping")).status_code for _ in range(5)] == [503] * 5


async def test_the_admin_service_sends_test_requests_with_mtls(
    authority: Authority, service: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_check_variables(monkeypatch, authority.issue("admin"))
    monkeypatch.setenv("RATELIMITD_ADMIN_KEY", KEY)
    async with serve_in_process(OracleLimiter(), tls=ServerTls(service)) as listener:
        flags = ("--redis-url", "unix:///nowhere.sock", "--admin-listen", "127.0.0.1:0")
        async with started("admin", *flags, "--admin-check-target", str(listener.address)) as process:
            address = json.loads(await line_with(process, "admin_listening"))["address"]
            async with httpx.AsyncClient(trust_env=False, headers={"X-Admin-Key": KEY}) as client:
                body = {"method": "GET", "path": "/"}
                reply = await client.post(f"http://{address}/admin/api/v1/check", json=body)
    assert (reply.status_code, reply.json()["metadata"]["outcome"]) == (200, "allowed")


async def test_health_of_a_client_that_is_refused_is_one_sentence(
    authority: Authority, service: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_check_variables(monkeypatch, authority.issue("other"))
    async with serve_in_process(OracleLimiter(), tls=ServerTls(service, ("envoy",))) as listener:
        status, output = await run("health", str(listener.address))  # grpc could print lines of its own
    assert (status, output) == (
        1,
        f"ratelimitd: {listener.address} does not answer: PERMISSION_DENIED\n",
    )


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"TLS_CERT_FILE": "c"}, "RATELIMITD_TLS_CERT_FILE needs RATELIMITD_TLS_KEY_FILE, which is not set"),
        ({"TLS_KEY_FILE": "k"}, "RATELIMITD_TLS_KEY_FILE needs RATELIMITD_TLS_CERT_FILE, which is not set"),
        ({"TLS_CLIENT_CA_FILE": "c"}, "RATELIMITD_TLS_CLIENT_CA_FILE needs RATELIMITD_TLS_CERT_FILE"),
        (
            {"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "TLS_CLIENT_NAMES": "n"},
            "RATELIMITD_TLS_CLIENT_NAMES needs RATELIMITD_TLS_CLIENT_CA_FILE, which is not set",
        ),
        (
            {"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "TLS_CLIENT_CA_FILE": "a", "TLS_CLIENT_NAMES": ", ,"},
            "RATELIMITD_TLS_CLIENT_NAMES is ', ,': must have a name between commas",
        ),
        ({"CHECK_SERVER_NAME": "n"}, "RATELIMITD_CHECK_SERVER_NAME needs RATELIMITD_CHECK_CA_FILE"),
        (
            {"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "LISTEN": "unix:/x"},
            "RATELIMITD_TLS_CERT_FILE: a Unix socket is served without TLS; protect it with",
        ),
    ],
)
def test_settings_that_cannot_work_together_are_a_sentence(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{sentence}") as error:
        load({f"RATELIMITD_{name}": value for name, value in environ.items()}, {})
    assert len(str(error.value).splitlines()) == 1


async def test_a_certificate_that_cannot_be_read_is_a_sentence_at_the_start() -> None:
    flags = ("--tls-cert-file", "/no/c", "--tls-key-file", "/no/k", "--transport", "fast")
    done = await run("serve", *NOWHERE, *flags, "--listen", "127.0.0.1:0", "--log-level", "error")
    assert done == (1, "ratelimitd: cannot read /no/c: No such file or directory\n")


async def test_the_admin_service_reads_its_certificates_at_the_start() -> None:
    flags = ("--redis-url", "unix:///nowhere.sock", "--check-ca-file", "/no/ca", "--log-level", "error")
    done = await command.run("admin", *flags)
    assert done == command.Result(1, "", "ratelimitd: cannot read /no/ca: No such file or directory\n")


def over_socket(path: Path, config: Config) -> None:
    """Changes the cluster of the service as docs/tls.md says."""
    cluster = cluster_of(config)
    del cluster["cluster_type"]
    cluster.update(example("cluster: socket", SOCKET, path))


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Yields a folder whose group may enter it. New files get this group, as with fsGroup of Kubernetes."""
    if os.geteuid():
        unavailable("only root can start processes of other users")
    # Other users cannot enter tmp_path.
    with tempfile.TemporaryDirectory(prefix="ratelimitd-") as name:
        os.chown(name, 0, GROUP)
        folder = Path(name)
        folder.chmod(0o2771)
        yield folder


async def connects_as(path: Path, uid: int, gid: int) -> bool:
    """Returns whether a process of this user and group can connect to a Unix socket."""
    need("setpriv", "curl")
    process = await asyncio.create_subprocess_exec(
        *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
        *("curl", "--silent", "--max-time", "5", "--output", "/dev/null"),
        *("--http2-prior-knowledge", "--unix-socket", str(path), "http://x/"),
    )
    cannot_connect = 7
    return await process.wait() != cannot_connect


@BOTH
async def test_envoy_calls_the_service_over_a_socket_that_only_a_group_can_open(
    tmp_path: Path, shared_folder: Path, transport: str
) -> None:
    path = shared_folder / "s"
    with socket.socket(socket.AF_UNIX) as left_by_a_killed_service:
        left_by_a_killed_service.bind(str(path))
    flags = ("--transport", transport, "--listen-mode", "660")
    async with serving(f"unix:{path}", *flags) as address:
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, GROUP)
        assert await connects_as(path, MEMBER, GROUP)
        assert not await connects_as(path, STRANGER, STRANGER)
        with pytest.raises(ListenError, match="Address already in use"):
            free_binding(address)
        assert await command.run("health", str(address)) == command.Result(0, "SERVING\n", "")
        async with front(tmp_path, address, partial(over_socket, path)) as client:
            await answered(client, 200)
    assert not path.exists()
