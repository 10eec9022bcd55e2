"""Programs that are not on PyPI. A test that lacks one fails in CI and is skipped elsewhere."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PATH = f"{os.environ['PATH']}:{Path.home()}/go/bin"
"""The search path for programs, with the folder of `go install`."""


def unavailable(reason: str) -> NoReturn:
    """Fails the test in CI, and skips it elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Ends the test unless these programs are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        unavailable(f"{', '.join(missing)} is not installed")
