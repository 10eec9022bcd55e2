"""A real Envoy that calls the service with mTLS or over a Unix socket, configured as docs/tls.md says."""

import asyncio
import json
import os
import re
import shutil
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from ratelimitd.address import TcpAddress, parse_address
from ratelimitd.certificates import CertificateFiles
from ratelimitd.errors import SettingsError
from ratelimitd.process.loopback import LOOPBACK
from ratelimitd.settings import load
from tests.authority import Authority
from tests.eventually import eventually
from tests.required_programs import need, unavailable
from tests.system import command
from tests.system.changed_front import Config, changed_front, running_backend
from tests.system.processes import end_of, line_with, run, started

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
FOLDER = "/etc/envoy/tls"
SOCKET = "/run/ratelimitd/ratelimitd.sock"
NOWHERE = ("--redis-url", "unix:///nowhere.sock", "--leave-s", "0")
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


def check_environment(files: CertificateFiles) -> dict[str, str]:
    """Returns the variables with which commands call the service."""
    names = ("CERT", "KEY", "CA")
    return {f"RATELIMITD_CHECK_{name}_FILE": path for name, path in zip(names, files, strict=True)}


@asynccontextmanager
async def front(
    folder: Path, listen: str, change: Callable[[Config], object], *flags: str
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """Runs a service behind an Envoy with a change. Yields the service's address and a client of Envoy."""
    folder.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(
            started("serve", *NOWHERE, "--on-store-error", "allow", "--listen", listen, *flags)
        )
        address = json.loads(await line_with(process, '"listening"'))["address"]
        backend = await stack.enter_async_context(running_backend())
        parsed = parse_address(address)
        replica = parsed if isinstance(parsed, TcpAddress) else TcpAddress(LOOPBACK, 1)
        client = await stack.enter_async_context(
            changed_front(folder, change, replicas=[replica], backend=backend.address)
        )
        yield address, client
        process.terminate()
        assert (await end_of(process))[0] == 0


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
    tmp_path: Path, transport: str, authority: Authority, service: CertificateFiles
) -> None:
    envoy, other = authority.issue("envoy"), authority.issue("other")
    folder = tmp_path / "tls"
    flags = ("--transport", transport, *tls_flags(service, "--tls-client-names", "envoy"))
    change = partial(with_mtls, folder, envoy)
    async with front(tmp_path, "127.0.0.1:0", change, *flags) as (address, client):
        await answered(client, 200)
        env = check_environment(envoy)
        done = await run("check", "--path", "/", "--target", address, "--json", env=env)
        assert json.loads(done[1])["metadata"]["outcome"] == "undecided"
        assert await run("health", address, env=env) == (0, "SERVING\n")
        status, output = await run("health", address, env=check_environment(other))
        assert (status, output.count("\n")) == (1, 1)
        assert output.startswith(f"ratelimitd: {address} does not answer: ")


async def test_envoy_reads_its_certificate_again_and_loses_no_request(
    tmp_path: Path, authority: Authority, service: CertificateFiles
) -> None:
    """The old authority is no longer trusted by the service once Envoy has a certificate of the new one."""
    folder, new = tmp_path / "tls", Authority(tmp_path, "new")
    own = CertificateFiles(*(str(shutil.copy(path, tmp_path)) for path in service))
    trusted = Path(own.ca)
    trusted.write_bytes(trusted.read_bytes() + Path(new.file).read_bytes())
    change = partial(with_mtls, folder, authority.issue("envoy"))
    flags = ("--transport", "fast", *tls_flags(own, "--max-connection-age-s", "1"))
    async with front(tmp_path, "127.0.0.1:0", change, *flags) as (address, client):
        await answered(client, 200)
        renewed = new.issue("envoy", file="renewed", ca=authority.file)
        for path, name in zip(renewed[:2], ("tls.crt", "tls.key"), strict=True):
            Path(path).replace(folder / name)
        trusted.write_bytes(Path(new.file).read_bytes())
        old = check_environment(authority.issue("envoy", file="old"))

        async def old_is_refused() -> bool:
            return (await run("health", address, env=old))[0] == 1

        await eventually(old_is_refused, "the service refuses the old authority")
        statuses: Counter[int] = Counter()
        for _ in range(50):
            statuses[(await client.get("/api/ping")).status_code] += 1
        assert statuses == {200: 50}


async def test_envoy_refuses_a_service_with_another_name(tmp_path: Path, authority: Authority) -> None:
    impostor = authority.issue("impostor")
    change = partial(with_mtls, tmp_path / "tls", authority.issue("envoy"))
    flags = ("--transport", "grpcio", *tls_flags(impostor))
    async with front(tmp_path, "127.0.0.1:0", change, *flags) as (_, client):
        await answered(client, 503)
        # The first request may have come before any handshake; none may pass after it.
        assert [(await client.get("/api/ping")).status_code for _ in range(5)] == [503] * 5


async def test_the_admin_service_sends_test_requests_with_mtls(
    authority: Authority, service: CertificateFiles
) -> None:
    env = check_environment(authority.issue("admin")) | {"RATELIMITD_ADMIN_KEY": "k" * 32}
    flags = ("--transport", "grpcio", "--listen", "127.0.0.1:0", *tls_flags(service))
    async with started("serve", *NOWHERE, *flags) as serving:
        target = json.loads(await line_with(serving, '"listening"'))["address"]
        admin = ("--redis-url", "unix:///nowhere.sock", "--admin-listen", "127.0.0.1:0")
        async with started("admin", *admin, "--admin-check-target", target, env=env) as process:
            address = json.loads(await line_with(process, "admin_listening"))["address"]
            async with httpx.AsyncClient(trust_env=False, headers={"X-Admin-Key": "k" * 32}) as client:
                body = {"method": "GET", "path": "/"}
                reply = await client.post(f"http://{address}/admin/api/v1/check", json=body)
    assert (reply.status_code, reply.json()["metadata"]["outcome"]) == (200, "undecided")


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


@BOTH
async def test_a_certificate_that_cannot_be_read_is_a_sentence_at_the_start(transport: str) -> None:
    flags = ("--tls-cert-file", "/no/c", "--tls-key-file", "/no/k", "--transport", transport)
    done = await run("serve", *NOWHERE, *flags, "--listen", "127.0.0.1:0", "--log-level", "error")
    assert done == (1, "ratelimitd: cannot read /no/c: No such file or directory\n")


async def test_the_admin_service_reads_its_certificates_at_the_start() -> None:
    flags = ("--redis-url", "unix:///nowhere.sock", "--check-ca-file", "/no/ca")
    done = await run("admin", *flags, "--log-level", "error")
    assert done == (1, "ratelimitd: cannot read /no/ca: No such file or directory\n")


def over_socket(path: Path, config: Config) -> None:
    """Changes the cluster of the service as docs/tls.md says."""
    cluster = cluster_of(config)
    del cluster["cluster_type"]
    cluster.update(example("cluster: socket", SOCKET, path))


@BOTH
async def test_envoy_calls_the_service_over_a_unix_socket(tmp_path: Path, transport: str) -> None:
    path = tmp_path / "s"
    async with front(tmp_path, f"unix:{path}", partial(over_socket, path), "--transport", transport) as (
        _,
        client,
    ):
        await answered(client, 200)


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
async def test_only_the_group_of_the_folder_may_connect_with_mode_660(transport: str) -> None:
    """A volume of Kubernetes with fsGroup is such a folder."""
    if os.geteuid():
        unavailable("only root can start processes of other users")
    group, member, stranger = 65531, 65532, 65533
    folder = Path(f"/tmp/ratelimitd-{transport}-{os.getpid()}")  # noqa: S108 - other users cannot enter tmp_path
    folder.mkdir()
    try:
        os.chown(folder, 0, group)
        folder.chmod(0o2771)
        path = folder / "s"
        flags = ("--transport", transport, "--listen", f"unix:{path}", "--listen-mode", "660")
        async with started("serve", *NOWHERE, *flags) as process:
            await line_with(process, '"listening"')
            found = path.stat()
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group)
            assert await connects_as(path, member, group)
            assert not await connects_as(path, stranger, stranger)
    finally:
        shutil.rmtree(folder)


@BOTH
async def test_a_killed_service_leaves_a_socket_that_the_next_one_replaces(
    tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "s"
    flags = ("--transport", transport, "--listen", f"unix:{path}")
    async with started("serve", *NOWHERE, *flags) as process:
        await line_with(process, '"listening"')
        process.kill()
        await process.wait()
    assert path.is_socket()

    async def nobody_serves_it() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) != 0

    await eventually(nobody_serves_it, "the host of the killed service has ended")
    async with started("serve", *NOWHERE, *flags) as process:
        await line_with(process, '"listening"')
        assert await command.run("health", f"unix:{path}") == command.Result(0, "SERVING\n", "")
        status, output = await run("serve", *NOWHERE, *flags, "--log-level", "error")
        assert (status, output) == (
            1,
            f"ratelimitd: cannot listen on unix:{path}: Address already in use\n",
        )
        process.terminate()
        assert (await end_of(process))[0] == 0
    assert not path.exists()
