"""Programs that PyPI does not have: a failure in CI, a skip with the reason elsewhere."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PATH = f"{os.environ['PATH']}:{Path.home()}/go/bin"
"""Where programs are looked for; the last part is where `go install` puts them."""


def unavailable(reason: str) -> NoReturn:
    """Ends the test: what it needs is not here."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Goes on only where these are installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        unavailable(f"{', '.join(missing)} is not installed")
