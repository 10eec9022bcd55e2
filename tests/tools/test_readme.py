"""Runs all commands of the README in order."""

import json
import re
import uuid
from collections.abc import Iterator

import pytest

from tests.containers.forms import PATIENT
from tests.required_programs import need
from tests.tools.conftest import ROOT, shell

COMMANDS = [
    command
    for block in re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for command in block.splitlines()
]

BY_CI = {"make test", "make lint"}
"""Commands that `.ci/run` runs itself."""

IN_THE_BACKGROUND = {
    "make demo": "make demo ARGS=--once",
    "docker compose up --build": "docker compose up --build --detach --wait",
    "docker compose up --build --scale ratelimitd=3": (
        "docker compose up --build --scale ratelimitd=3 --detach --wait"
    ),
}
"""Commands that run until Ctrl-C, with the variant that a test can run."""


@pytest.fixture
def project() -> Iterator[dict[str, str]]:
    """Environment variables that give compose a project of its own, which is removed after the test."""
    need("docker", "curl", "grpcurl", "make")
    env = {
        "COMPOSE_PROJECT_NAME": f"readme-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": f"docker-compose.yml:{PATIENT}",
    }
    yield env
    shell("docker compose down --volumes --rmi local --timeout 0", env)


@pytest.mark.timeout(600)  # it builds images, an environment and a wheel, and installs them
def test_every_command_prints_what_the_readme_promises(project: dict[str, str]) -> None:
    outputs = {}
    for command in COMMANDS:
        if command in BY_CI:
            continue
        done = shell(IN_THE_BACKGROUND.get(command, command), project)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        outputs[command] = done.stdout

    def output_of(start: str) -> str:
        return next(text for command, text in outputs.items() if start in command)

    assert "response from backend" in output_of("curl -i")
    assert "7 x 429" in output_of("make demo")
    assert output_of("redis-cli SET") == "OK\n"
    assert output_of("redis-cli HGETALL").split()[0::2] == ["tokens", "last"]
    assert "envoy.service.auth.v3.Authorization\n" in output_of(" list")
    assert {"okResponse", "deniedResponse"} & json.loads(output_of("Authorization/Check")).keys()
    assert json.loads(output_of("Health/Check")) == {"status": "SERVING"}


def test_ci_runs_the_commands_that_this_file_skips() -> None:
    gate = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [command for command in BY_CI if command not in gate] == []
    assert set(COMMANDS) >= BY_CI
