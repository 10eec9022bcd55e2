"""Which credentials a connection tries when a server refuses the newest ones."""

from structlog.testing import capture_logs

from ratelimitd.store.credentials import Credentials, Login
from ratelimitd.store_source import Pair

OLD, NEW, OTHER = ("old",), ("new",), ("other",)


class Changing:
    """Credentials that change. `now` are the newest ones."""

    def __init__(self, now: Pair) -> None:
        self.now = now
        self.credentials = Credentials(self.find)

    async def find(self) -> Pair:
        return self.now

    async def connect(self, *valid: Pair) -> list[Pair]:
        """Connects to a server with these valid credentials, and returns what was tried."""
        login = Login(self.credentials)
        tried = [await login.get_credentials_async()]
        while tried[-1] not in valid:
            if not login.fall_back("WRONGPASS"):
                return tried
            tried.append(await login.get_credentials_async())
        login.accepted()
        return tried


async def test_servers_that_learn_of_new_credentials_in_turn_are_all_reached() -> None:
    changing = Changing(OLD)
    assert await changing.connect(OLD) == [OLD]
    changing.now = NEW
    assert await changing.connect(OLD, NEW) == [NEW]
    with capture_logs() as logs:
        for _ in range(3):
            assert await changing.connect(OLD) == [NEW, OLD]
            assert await changing.connect(NEW) == [NEW]
    assert changing.credentials.refused
    assert [line["event"] for line in logs] == ["store_credentials_refused"]


async def test_credentials_that_no_server_accepts_are_not_reported_as_replaced() -> None:
    changing = Changing(OLD)
    assert await changing.connect(NEW) == [OLD]
    assert await changing.connect(OLD) == [OLD]
    changing.now = NEW
    with capture_logs() as logs:
        assert await changing.connect(OTHER) == [NEW, OLD]
    assert not changing.credentials.refused
    assert logs == []


async def test_another_attempt_begins_with_the_newest_credentials() -> None:
    changing = Changing(OLD)
    await changing.connect(OLD)
    changing.now = NEW
    login = Login(changing.credentials)
    await login.get_credentials_async()
    for _ in range(2):
        assert login.fall_back("WRONGPASS")
        assert await login.get_credentials_async() == OLD
        assert not login.fall_back("WRONGPASS")
        assert await login.get_credentials_async() == NEW
