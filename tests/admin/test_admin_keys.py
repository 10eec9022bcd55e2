"""Admin keys: where they come from, what they allow, and that no text shows them."""

from pathlib import Path

import pytest

from ratelimitd.admin.admin_keys import AdminKeys, Role, load_admin_keys
from ratelimitd.errors import SettingsError
from ratelimitd.settings import Settings, load

FIRST, SECOND, THIRD = ("first-key-0123456", "second-key-0123456", "third-key-0123456")


def settings(**given: str) -> Settings:
    """Returns settings with these values."""
    return load({}, dict(given))


def test_there_is_no_default_key() -> None:
    keys = load_admin_keys(settings())
    assert not keys
    assert keys.role("") is None


def test_a_key_has_the_role_of_its_setting() -> None:
    keys = load_admin_keys(settings(admin_key=f"{FIRST} {SECOND}", admin_read_key=THIRD))
    assert keys
    assert [keys.role(key) for key in (FIRST, SECOND, THIRD)] == [Role.WRITE, Role.WRITE, Role.READ]
    assert Role.WRITE > Role.READ


@pytest.mark.parametrize(
    "presented", ["", FIRST[:-1], FIRST + "6", FIRST.upper(), f" {FIRST}", "\udcff", "é" * 16]
)
def test_an_unknown_key_has_no_role(presented: str) -> None:
    assert AdminKeys((FIRST,), (SECOND,)).role(presented) is None


def test_a_read_only_key_alone_is_enough() -> None:
    assert load_admin_keys(settings(admin_read_key=FIRST))


def test_keys_are_read_from_a_file_with_one_per_line(tmp_path: Path) -> None:
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


def test_a_file_without_a_key_stops_the_start(tmp_path: Path) -> None:
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
def test_a_key_that_is_too_short_or_not_ascii_stops_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="16 to 256 printable ASCII characters") as error:
        load_admin_keys(settings(admin_key=key))
    assert key not in str(error.value)


@pytest.mark.parametrize("key", ["x" * 16, "x" * 256])
def test_the_shortest_and_the_longest_key_are_valid(key: str) -> None:
    assert load_admin_keys(settings(admin_key=key)).role(key) is Role.WRITE


def test_a_key_with_both_roles_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="is also in RATELIMITD_ADMIN_KEY") as error:
        load_admin_keys(settings(admin_key=f"{FIRST} {SECOND}", admin_read_key=SECOND))
    assert SECOND not in str(error.value)


def test_no_key_is_shown_in_a_repr() -> None:
    keys = AdminKeys((FIRST,), (SECOND,))
    shown = repr(keys) + str(keys) + repr(settings(admin_key=FIRST, admin_read_key=SECOND))
    assert FIRST not in shown
    assert SECOND not in shown


def test_a_fingerprint_has_the_role_of_its_key() -> None:
    keys = AdminKeys((FIRST,), (SECOND,))
    assert keys.role_of_fingerprint(keys.fingerprint(FIRST)) is Role.WRITE
    assert keys.role_of_fingerprint(keys.fingerprint(SECOND)) is Role.READ
    assert keys.role_of_fingerprint(keys.fingerprint(THIRD)) is None
    assert keys.role_of_fingerprint(FIRST) is None
    assert keys.role(keys.fingerprint(FIRST)) is None
    assert AdminKeys((THIRD,), (SECOND,)).role_of_fingerprint(keys.fingerprint(FIRST)) is None


def test_the_session_secret_depends_on_all_keys_and_their_roles() -> None:
    one, same = AdminKeys((FIRST,), (SECOND,)), AdminKeys((FIRST,), (SECOND,))
    assert one.session_secret() == same.session_secret()
    others = [AdminKeys((FIRST, SECOND), ()), AdminKeys((), (FIRST, SECOND)), AdminKeys((THIRD,), (SECOND,))]
    assert len({one.session_secret(), *(keys.session_secret() for keys in others)}) == 4
    assert one.session_secret() not in {one.fingerprint(FIRST), FIRST}
