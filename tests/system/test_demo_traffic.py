"""Tests of the traffic of the demo."""

import asyncio
import re
from collections import Counter

import pytest

from ratelimitd.address import TcpAddress
from ratelimitd.demo.traffic import KINDS, MEAN_RATE, PERIOD_S, TRAFFIC_LIMITS, rate_at, send_traffic
from ratelimitd.policy.text import parse
from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.eventually import eventually


class Front:
    """Answers 429 to every request, and counts the users."""

    def __init__(self) -> None:
        self.users: Counter[str] = Counter()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one request of a connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        (user,) = re.findall(rb"x-user-id: (\S+)", head)
        self.users[user.decode()] += 1
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()


async def test_traffic_outlasts_a_front_that_is_away_and_ends_when_it_is_cancelled() -> None:
    front, address = Front(), TcpAddress(LOOPBACK, free_port())
    traffic = asyncio.create_task(send_traffic(address, rate=lambda _: 1000))
    for _ in range(2):
        async with await asyncio.start_server(front.accept, address.host, address.port):
            front.users.clear()

            async def every_user_is_seen() -> bool:
                return front.users.keys() == {user for kind in KINDS for user in kind.users}

            await eventually(every_user_is_seen, "requests of every user")
    traffic.cancel()
    with pytest.raises(asyncio.CancelledError):
        await traffic


def test_the_rate_rises_and_falls_around_its_mean() -> None:
    rates = [rate_at(PERIOD_S * part / 100) for part in range(100)]
    assert sum(rates) / 100 == pytest.approx(MEAN_RATE)
    assert (min(rates), max(rates)) == pytest.approx((MEAN_RATE / 2, MEAN_RATE * 3 / 2), rel=0.01)


def test_all_users_have_the_prefix_of_the_demo_and_the_limits_are_valid() -> None:
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)
    assert [user for kind in KINDS for user in kind.users if not user.startswith("demo-")] == []
    parse(TRAFFIC_LIMITS)
