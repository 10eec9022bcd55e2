"""Runs documented commands."""

import os
import subprocess
from pathlib import Path

from tests.required_programs import PATH

ROOT = Path(__file__).parents[2]
WAIT_S = 300
LOCAL = ",".join(filter(None, (os.environ.get("no_proxy"), "localhost,127.0.0.1")))
"""Hosts that curl must not call through a proxy of the environment."""


def shell(command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a shell command in the root folder of the repository, as a user would paste it."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH, "no_proxy": LOCAL, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
