"""Behaviour of the transport grpcio alone."""

import os
import stat
from pathlib import Path

import pytest

from ratelimitd.address import UnixAddress
from tests.core.fakes import OracleLimiter
from tests.transport.conftest import serve_in_process


async def test_only_the_owner_can_connect_until_a_unix_socket_has_its_mode(
    socket_path: UnixAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host of `fast` needs no such care: it sets the mode before it listens."""
    before: list[int] = []
    chmod = os.chmod

    def recorded(path: str, mode: int) -> None:
        before.append(stat.S_IMODE(Path(path).stat().st_mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", recorded)
    umask = os.umask(0)
    try:
        async with serve_in_process(OracleLimiter(), UnixAddress(socket_path.path, 0o660)):
            assert stat.S_IMODE(Path(socket_path.path).stat().st_mode) == 0o660
            assert os.umask(0) == 0
    finally:
        os.umask(umask)
    assert before == [0o700]
