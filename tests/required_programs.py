"""Finds programs that are not on PyPI. Without one, a test fails in CI and is skipped elsewhere."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PATH = f"{os.environ['PATH']}:{Path.home()}/go/bin"
"""The search path for programs, which includes the folder of `go install`."""


def unavailable(reason: str) -> NoReturn:
    """Fails the test in CI, and skips it elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Skips the test, or fails it in CI, unless these programs are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        unavailable(f"{', '.join(missing)} is not installed")
