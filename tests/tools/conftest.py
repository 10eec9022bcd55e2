"""Programs that PyPI does not have: a failure in CI, a skip with the reason elsewhere."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 300


PATH = f"{os.environ['PATH']}:{Path.home()}/go/bin"  # where `go install` puts programs


def shell(command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a line as a person would paste it, from the top of the repository."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def need(*programs: str) -> None:
    """Goes on only where these are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        reason = f"{', '.join(missing)} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
