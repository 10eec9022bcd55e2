"""Tests of `ratelimitd admin` on a real port: its responses, its log and its end."""

import json
import signal
import socket
from ipaddress import ip_address
from pathlib import Path

import httpx

from ratelimitd.address import TcpAddress, parse_address
from ratelimitd.process.loopback import free_port
from ratelimitd.settings import load
from tests.system.processes import end_of, line_with, started

WRITE_KEY = "the-key-that-may-change"
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_default_address_is_loopback() -> None:
    address = parse_address(load({}, {}).admin_listen)
    assert isinstance(address, TcpAddress)
    assert ip_address(address.host).is_loopback


async def test_requests_without_a_key_do_not_fill_the_log(store_url: str, tmp_path: Path) -> None:
    """Invalid HTTP and WebSocket upgrades write no line, even if a WebSocket library is installed.

    Every line is JSON, and none contains a key.
    """
    (tmp_path / "websockets.py").touch()
    env = {
        "RATELIMITD_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "RATELIMITD_ADMIN_KEY": WRITE_KEY,
        "RATELIMITD_REDIS_URL": store_url,
        "PYTHONPATH": str(tmp_path),
    }
    async with started("admin", env=env) as process:
        address = json.loads(await line_with(process, "admin_listening"))["address"]
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))) as garbage:
            garbage.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert garbage.recv(64).startswith(b"HTTP/1.1 400 ")
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            policy = "/admin/api/v1/policy"
            assert (await client.get(policy, headers={"x-admin-key": WRITE_KEY})).status_code == 200
            assert (await client.get(policy, headers=UPGRADE)).status_code == 401
            assert (await client.get(policy, headers={"x-admin-key": WRITE_KEY[:-1]})).status_code == 401
        process.send_signal(signal.SIGTERM)
        status, rest = await end_of(process)
    assert status == 0
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["admin_key_refused", "admin_stopped"]
    assert WRITE_KEY[:-1] not in rest
