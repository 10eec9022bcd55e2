"""Proxy variables of the environment, which Docker may set in every container, change no call to loopback."""

import asyncio
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.system import command
from tests.system.processes import end_of, line_with, started

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:1"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ftp_proxy")
PROXIES = {name: NOWHERE for word in NAMES for name in (word, word.upper())} | {
    "no_proxy": "",
    "NO_PROXY": "",
    "no_grpc_proxy": "",
}
"""A proxy that nobody runs, for every address."""


def health_checks() -> dict[str, list[str]]:
    """Returns the health checks that call HTTP, by the service."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    dockerfile = (ROOT / "backend" / "Dockerfile").read_text()
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert found is not None
    return {"admin": compose["services"]["admin"]["healthcheck"]["test"][1:], "backend": json.loads(found[1])}


class _Health(BaseHTTPRequestHandler):
    """Answers the status of the server to the paths of the health checks, and 404 to others."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path in {"/health", "/healthz"} else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Writes nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Yields the port of a server that is healthy while `_Health.status` is 200."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("service", health_checks())
@pytest.mark.parametrize(("status", "exit_status"), [(200, 0), (503, 1), (302, 1)])
async def test_a_health_check_of_compose_needs_no_proxy(
    port: int, monkeypatch: pytest.MonkeyPatch, service: str, status: int, exit_status: int
) -> None:
    monkeypatch.setattr(_Health, "status", status)
    program, *arguments = health_checks()[service]
    assert program == "python"
    line = [re.sub(r"\b90[09]0\b", str(port), text) for text in arguments]
    process = await asyncio.create_subprocess_exec(sys.executable, *line, env=PROXIES)
    assert await process.wait() == exit_status


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_service_and_its_commands_need_no_proxy(
    store_url: str, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RATELIMITD_REDIS_URL", store_url)
    flags = ("--transport", transport, "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", *flags) as process:
        address = json.loads(await line_with(process, '"listening"'))["address"]
        assert (await command.run("health", address)).out == "SERVING\n"
        checked = await command.run("check", "--target", address, "--path", "/api/ping", "--json")
        assert (checked.status, checked.json["outcome"]) == (0, "allowed")
        assert (await command.run("policy", "status")).status == 0
        process.terminate()
        assert (await end_of(process))[0] == 0
