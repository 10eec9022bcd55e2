"""Tests that the host imports nothing from the working directory."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.system.processes import end_of, line_with, started

ROOT = Path(__file__).parents[2]

SHADOWING = (
    *("json.py", "asyncio.py", "threading.py", "sitecustomize.py"),
    *("redis.py", "uvloop.py", "pyvoy.py"),
    "ratelimitd/__init__.py",
)
"""Modules that the host imports: Python's own, those of libraries, and ours."""

SERVE = ("serve", "--transport", "fast", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")

REPORT = """
import json, os, pathlib, sys
pathlib.Path(os.environ["REPORT"]).write_text(json.dumps([__file__, *sys.path]))
"""


def shadow(folder: Path, *files: str) -> None:
    """Writes modules that end the Python process that imports them."""
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("raise SystemExit(f'{__file__} was imported')")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Returns a copy of the sources whose application reports its file and its sys.path."""
    copy = tmp_path / "checkout"
    for part in ("ratelimitd", "lua"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "ratelimitd" / "asgi.py").open("a") as asgi:
        asgi.write(REPORT)
    return copy


async def report_of(checkout: Path, cwd: Path, python_path: str) -> list[str]:
    """Starts the service of this checkout in the folder `cwd`; returns what its application reports."""
    report = checkout / "report.json"
    env = {"PYTHONPATH": python_path, "HOME": str(cwd), "REPORT": str(report)}
    async with started(*SERVE, env=env, cwd=cwd) as process:
        await line_with(process, '"listening"')
        process.send_signal(signal.SIGINT)
        assert (await end_of(process))[0] == 0
    lines: list[str] = json.loads(report.read_text())
    return lines


async def test_the_host_ignores_modules_in_the_working_directory(tmp_path: Path, checkout: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shadow(home, *SHADOWING)
    loaded, *path = await report_of(checkout, home, str(checkout))
    assert loaded == str(checkout / "ratelimitd" / "asgi.py")
    assert not {"", ".", str(home)} & set(path)


async def test_the_working_directory_is_dropped_from_the_users_python_path(
    tmp_path: Path, checkout: Path
) -> None:
    shadow(tmp_path, "uvloop.py")
    _, *path = await report_of(checkout, tmp_path, f":{checkout}")
    assert str(tmp_path) not in path


async def test_in_a_checkout_the_host_loads_the_package_that_started_it(checkout: Path) -> None:
    shadow(checkout, "uvloop.py")
    loaded, *path = await report_of(checkout, checkout, str(checkout))
    assert loaded == str(checkout / "ratelimitd" / "asgi.py")
    assert path.count(str(checkout)) == 1
    assert path.index(str(checkout)) > path.index(str(Path(json.__file__).parents[1]))
