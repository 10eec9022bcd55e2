"""Where spans go, and what happens when they cannot go there, with the service in its own process."""

import json
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest

from ratelimitd.address import TcpAddress
from ratelimitd.core.model import Request
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.embedded import embedded_store
from ratelimitd.transport.client import CheckReply, check_service
from tests.eventually import eventually
from tests.otlp_receiver import otlp_receiver
from tests.system.command import run
from tests.system.processes import end_of, line_with, started

CHECK = "envoy.service.auth.v3.Authorization/Check"
BAD = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_SAMPLER": "sometimes"}


async def check(port: int, *, dry_run: bool = False) -> CheckReply:
    request = Request("GET", "/api/ping", "host", {"x-user-id": "alice"}, "203.0.113.9", {})
    return await check_service(f"{LOOPBACK}:{port}", request, dry_run=dry_run)


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_service_survives_its_store_and_its_collector(transport: str) -> None:
    port = free_port()
    arguments = ("serve", "--transport", transport, "--listen", f"{LOOPBACK}:{port}", "--leave-s", "0")
    with otlp_receiver() as receiver:
        async with AsyncExitStack() as stack:
            store = AsyncExitStack()
            stack.push_async_exit(store)
            env = {
                "RATELIMITD_REDIS_URL": await store.enter_async_context(embedded_store()),
                "RATELIMITD_METRICS_LISTEN": "",
                "RATELIMITD_STORE_TIMEOUT_MS": "5000",  # a busy machine is slow
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint("http/protobuf"),
                "OTEL_BSP_SCHEDULE_DELAY": "20",
                "OTEL_SERVICE_NAME": "limits",
                "OTEL_TRACES_SAMPLER": "",  # Compose sets it so for an unset variable
            }
            process = await stack.enter_async_context(started(*arguments, env=env))
            await line_with(process, "listening")
            assert (await check(port, dry_run=True)).outcome == "allowed"
            (span,) = [span for span in await receiver.until(2, "limits") if span.name == CHECK]
            assert (span.parent, span.attributes["ratelimitd.dry_run"]) == ("", True)

            await store.aclose()
            assert (await check(port)).metadata["outcome"] == "undecided"
            *_, call, span = await receiver.until(4, "limits")
            assert (call.name, call.failed, call.links) == ("EVALSHA", True, [span.id])
            assert (span.attributes["ratelimitd.outcome"], span.failed) == ("undecided", True)
            assert span.attributes["error.type"] == call.attributes["error.type"] == "StoreConnectionError"

            receiver.silent = True
            requests = receiver.requests
            assert (await check(port)).metadata["outcome"] == "undecided"

            async def waits() -> bool:
                return receiver.requests > requests

            await eventually(waits, "a request that gets no response")
            assert (await check(port)).metadata["outcome"] == "undecided"
            process.send_signal(signal.SIGTERM)
            status, output = await end_of(process)
    lines = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [line["event"] for line in lines][-2:] == ["spans_lost", "stopped"]


async def test_a_silent_collector_does_not_keep_envoy(store_url: str, tmp_path: Path) -> None:
    front, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    config = tmp_path / "envoy.yaml"
    clusters = {"ratelimitd": [TcpAddress(LOOPBACK, 1)], "backend": [admin]}
    config.write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
    with otlp_receiver() as receiver:
        receiver.silent = True
        env = {
            "RATELIMITD_REDIS_URL": store_url,
            "RATELIMITD_METRICS_LISTEN": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint("grpc"),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        async with (
            started("envoy", "--config", str(config), env=env) as process,
            httpx.AsyncClient(base_url=f"http://{front}", trust_env=False, timeout=30) as client,
        ):

            async def spans_are_sent() -> bool:
                with suppress(httpx.TransportError):
                    await client.get("/api/ping")
                return receiver.requests > 0

            await eventually(spans_are_sent, "a request that gets no response")
            process.send_signal(signal.SIGTERM)
            status, output = await end_of(process)
    assert status == 0
    assert '"spans_lost"' in output


async def test_a_collector_that_is_away_causes_few_log_lines_and_disturbs_no_other_exporter() -> None:
    port = free_port()
    arguments = ("serve", "--transport", "grpcio", "--listen", f"{LOOPBACK}:{port}", "--leave-s", "0")
    env = {
        "RATELIMITD_METRICS_LISTEN": "",
        "OTEL_TRACES_EXPORTER": "otlp,console",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.001",  # so that it does not try again
        "OTEL_BSP_SCHEDULE_DELAY": "1",
    }
    async with started(*arguments, "--redis-url", "embedded", env=env) as process:
        await line_with(process, "listening")
        for _ in range(40):
            await check(port)
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    lines = [json.loads(line) for line in output.splitlines()]
    spans = [line for line in lines if "event" not in line]
    warnings = [line for line in lines if line.get("event") == "opentelemetry"]
    assert status == 0
    assert 1 <= len(warnings) <= 6
    assert len([span for span in spans if span["name"] == CHECK]) == 40


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_without_traces_nothing_of_opentelemetry_is_imported(transport: str) -> None:
    arguments = ("serve", "--transport", transport, "--listen", f"{LOOPBACK}:0", "--redis-url", "embedded")
    env = {"PYTHONPROFILEIMPORTTIME": "1", "RATELIMITD_METRICS_LISTEN": "", "OTEL_TRACES_EXPORTER": "none"}
    async with started(*arguments, "--leave-s", "0", env=env) as process:
        assert process.stdout is not None
        imported = ""
        async for line in process.stdout:
            imported += line.decode()
            if b'"listening"' in line:
                break
        process.send_signal(signal.SIGINT)
        await end_of(process)
    assert " ratelimitd.decider" in imported
    # redis-py tries to import other modules, in vain. All modules of OpenTelemetry import this one.
    assert "opentelemetry.context" not in imported


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_bad_value_stops_the_start(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    done = await run("serve", "--transport", transport, "--redis-url", "redis://127.0.0.1:1")
    assert done.status == 1
    assert done.err.startswith("ratelimitd: OTEL_TRACES_SAMPLER is 'sometimes'; expected always_on, ")


async def test_a_bad_value_stops_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    done = await run("envoy", "--config", "envoy/envoy.yaml")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("ratelimitd: OTEL_TRACES_SAMPLER is 'sometimes'")
