"""Runs the commands that the demo prints."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ratelimitd.process.loopback import free_port
from tests.required_programs import need
from tests.tools.conftest import shell

EXPECTED = {"curl": "HTTP/1.1 ", "grpcurl": '"status"', "redis-cli": ""}


@pytest.fixture(scope="module")
def printed() -> Iterator[list[str]]:
    """The commands below "Try it:" in the output of a running demo."""
    need("curl", "grpcurl", "redis-cli")
    command = [sys.executable, "-m", "ratelimitd", "demo", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        yield lines[lines.index("Try it:") + 1 : -5]
        demo.send_signal(signal.SIGINT)


def test_each_printed_command_works(printed: list[str]) -> None:
    assert [line.split()[0] for line in printed] == ["curl", "grpcurl", "redis-cli", "redis-cli", "curl"]
    outputs = []
    for line in printed:
        done = shell(line)
        assert done.returncode == 0, (line, done.stderr)
        assert EXPECTED[line.split()[0]] in done.stdout or "/admin/" in line
        outputs.append(done.stdout)
    assert outputs[2].split()[0::2] == ["tokens", "last"]
    assert outputs[3] == "OK\n"
    assert len(json.loads(outputs[4])["replicas"]) == 2
