"""Keys: where they come from, what they allow, and that none is ever shown."""

from pathlib import Path

import pytest

from ratelimitd.admin.admin_keys import AdminKeys, Role, load_admin_keys
from ratelimitd.errors import SettingsError
from ratelimitd.settings import Settings, load

FIRST, SECOND, THIRD = ("first-key-0123456", "second-key-0123456", "third-key-0123456")


def settings(**given: str) -> Settings:
    """Settings with these values."""
    return load({}, dict(given))


def test_there_is_no_default_key() -> None:
    """Without any, nobody may do anything: not even an empty key is one."""
    keys = load_admin_keys(settings())
    assert not keys
    assert keys.role("") is None


def test_a_key_allows_what_it_was_given_for() -> None:
    """A key that may change may look too; the two kinds can be rotated, with two of each."""
    keys = load_admin_keys(settings(admin_key=f"{FIRST} {SECOND}", admin_read_key=THIRD))
    assert keys
    assert [keys.role(key) for key in (FIRST, SECOND, THIRD)] == [Role.WRITE, Role.WRITE, Role.READ]
    assert Role.WRITE > Role.READ


@pytest.mark.parametrize(
    "presented", ["", FIRST[:-1], FIRST + "6", FIRST.upper(), f" {FIRST}", "\udcff", "é" * 16]
)
def test_what_is_no_key_allows_nothing(presented: str) -> None:
    """Whatever bytes arrive."""
    assert AdminKeys((FIRST,), (SECOND,)).role(presented) is None


def test_a_read_key_alone_is_enough() -> None:
    """For a panel that only shows."""
    assert load_admin_keys(settings(admin_read_key=FIRST))


def test_keys_come_from_a_file_one_a_line(tmp_path: Path) -> None:
    """With those of the setting, two in all."""
    file = tmp_path / "keys"
    file.write_text(f"{SECOND}\n\n")
    keys = load_admin_keys(settings(admin_key=FIRST, admin_key_file=str(file), admin_read_key_file=""))
    assert keys.write == (FIRST, SECOND)
    file.write_text(f"{SECOND}\n{THIRD}\n")
    assert load_admin_keys(settings(admin_read_key_file=str(file))).read == (SECOND, THIRD)
    with pytest.raises(
        SettingsError, match=r"RATELIMITD_ADMIN_KEY with .*: there are 3 keys; at most 2 are allowed"
    ):
        load_admin_keys(settings(admin_key=FIRST, admin_key_file=str(file)))


def test_a_file_that_holds_no_key_stops_the_start(tmp_path: Path) -> None:
    """Somebody meant to set one: answering without would be another thing than he thinks."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"RATELIMITD_ADMIN_KEY_FILE: .*empty holds no key"):
        load_admin_keys(settings(admin_key_file=str(empty)))
    short = tmp_path / "short"
    short.write_text("short\n")
    with pytest.raises(SettingsError, match=r"RATELIMITD_ADMIN_KEY with .*short: a key must have 16 to 256"):
        load_admin_keys(settings(admin_key_file=str(short)))
    for name in (str(tmp_path / "none"), str(binary), str(tmp_path)):
        with pytest.raises(SettingsError, match=r"RATELIMITD_ADMIN_READ_KEY_FILE: .* cannot be read: "):
            load_admin_keys(settings(admin_read_key_file=name))


@pytest.mark.parametrize("key", ["short", "x" * 15, "x" * 257, "schlüssel-0123456789", "bell\x07-0123456789"])
def test_a_key_that_is_easy_to_guess_or_hard_to_send_stops_the_start(key: str) -> None:
    """And the sentence does not show it."""
    with pytest.raises(SettingsError, match="16 to 256 printable ASCII characters") as error:
        load_admin_keys(settings(admin_key=key))
    assert key not in str(error.value)


@pytest.mark.parametrize("key", ["x" * 16, "x" * 256])
def test_the_shortest_and_the_longest_key_can_be_used(key: str) -> None:
    """The ends count."""
    assert load_admin_keys(settings(admin_key=key)).role(key) is Role.WRITE


def test_one_key_cannot_be_of_both_kinds() -> None:
    """Nobody could say what it allows; the sentence does not show it."""
    with pytest.raises(SettingsError, match="is also in RATELIMITD_ADMIN_KEY") as error:
        load_admin_keys(settings(admin_key=f"{FIRST} {SECOND}", admin_read_key=SECOND))
    assert SECOND not in str(error.value)


def test_no_key_is_shown_in_a_repr() -> None:
    """Of keys or of settings: they may stand in a traceback."""
    keys = AdminKeys((FIRST,), (SECOND,))
    shown = repr(keys) + str(keys) + repr(settings(admin_key=FIRST, admin_read_key=SECOND))
    assert FIRST not in shown
    assert SECOND not in shown


def test_a_session_ends_with_its_key() -> None:
    """The fingerprint allows what the key does, is no key itself, and means nothing once the key is gone."""
    keys = AdminKeys((FIRST,), (SECOND,))
    assert keys.role_of_fingerprint(keys.fingerprint(FIRST)) is Role.WRITE
    assert keys.role_of_fingerprint(keys.fingerprint(SECOND)) is Role.READ
    assert keys.role_of_fingerprint(keys.fingerprint(THIRD)) is None
    assert keys.role_of_fingerprint(FIRST) is None
    assert keys.role(keys.fingerprint(FIRST)) is None
    assert AdminKeys((THIRD,), (SECOND,)).role_of_fingerprint(keys.fingerprint(FIRST)) is None


def test_cookies_are_signed_alike_by_all_with_the_same_keys() -> None:
    """And by nobody else: keys that change kind or boundary are other keys."""
    one, same = AdminKeys((FIRST,), (SECOND,)), AdminKeys((FIRST,), (SECOND,))
    assert one.session_secret() == same.session_secret()
    others = [AdminKeys((FIRST, SECOND), ()), AdminKeys((), (FIRST, SECOND)), AdminKeys((THIRD,), (SECOND,))]
    assert len({one.session_secret(), *(keys.session_secret() for keys in others)}) == 4
    assert one.session_secret() not in {one.fingerprint(FIRST), FIRST}
