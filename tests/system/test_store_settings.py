"""Tests of the settings with the URL and the credentials of the store."""

import os
from pathlib import Path

import pytest

from ratelimitd.errors import SettingsError
from ratelimitd.settings import environment, load
from ratelimitd.store.access import access_by

SECRET = "hunter2"  # noqa: S105 - it is meant to be found
FILES = ["redis_password_file", "redis_url_file", "sentinel_password_file"]


def problem(**flags: str) -> str:
    """Returns the error of settings."""
    with pytest.raises(SettingsError) as error:
        access_by(load({}, flags))
    assert SECRET not in str(error.value)
    return str(error.value)


@pytest.fixture
def password(tmp_path: Path) -> str:
    """Returns the path of a file with a password."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    return str(path)


@pytest.mark.parametrize("setting", FILES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b" \r\n", "the file is empty"),
        (b"a\nb", "the file must hold one line without control characters"),
        (b"hunter2\x00", "the file must hold one line without control characters"),
        (b"hunter2\xff", "the file is not UTF-8 text"),
        (b"x" * 70_000, "the file has more than 65536 bytes"),
    ],
)
def test_a_file_without_one_line_is_refused(
    setting: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert problem(**{setting: str(path)}) == f"RATELIMITD_{setting.upper()} is {str(path)!r}: {reason}"


@pytest.mark.parametrize("setting", FILES)
def test_what_is_not_a_readable_file_is_refused(setting: str, tmp_path: Path) -> None:
    name = f"RATELIMITD_{setting.upper()}"
    assert (
        problem(**{setting: str(tmp_path)})
        == f"{name} is {str(tmp_path)!r}: it is a directory; expected a file"
    )
    missing = str(tmp_path / "none")
    assert problem(**{setting: missing}) == (
        f"{name} is {missing!r}: the file cannot be read: No such file or directory"
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert problem(**{setting: str(pipe)}) == f"{name} is {str(pipe)!r}: it is not a regular file"


def test_a_url_in_a_file_is_checked_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("embedded")
    assert problem(redis_url_file=str(path)).endswith(
        ": the file holds `embedded`; expected a URL, or `embedded` without a file"
    )
    path.write_text(f"redis://u:{SECRET}@h/x")
    assert "not a valid store URL: the path '/x' names no database" in problem(redis_url_file=str(path))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            {"redis_url": f"redis://:{SECRET}@h", "redis_password_file": "{}"},
            "the URL has a password, and RATELIMITD_REDIS_PASSWORD_FILE is set; expected only one of them",
        ),
        (
            {"redis_url": f"redis://u:{SECRET}@h", "redis_username": "v"},
            "the URL has a user, and RATELIMITD_REDIS_USERNAME is set; expected only one of them",
        ),
        (
            {"redis_username": "u"},
            "RATELIMITD_REDIS_USERNAME is set without a password; expected RATELIMITD_REDIS_PASS",
        ),
        (
            {"redis_credentials": "m:C", "redis_password_file": "{}"},
            "RATELIMITD_REDIS_CREDENTIALS is set, so",
        ),
        (
            {"redis_url": "embedded", "redis_password_file": "{}"},
            "an `embedded` store has no users; expected a URL",
        ),
        (
            {"sentinel_password_file": "{}"},
            "RATELIMITD_SENTINEL_PASSWORD_FILE is set, but the URL does not name",
        ),
        (
            {"sentinel_username": "s"},
            "RATELIMITD_SENTINEL_USERNAME is set without RATELIMITD_SENTINEL_PASSWORD_F",
        ),
        (
            {"redis_url": "redis://h", "redis_url_file": "{url}"},
            "RATELIMITD_REDIS_URL and RATELIMITD_REDIS_URL_FILE",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    flags: dict[str, str], reason: str, password: str, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    url.write_text("redis://h")
    given = {name: value.format(password, url=url) for name, value in flags.items()}
    sentence = problem(**given)
    assert sentence.startswith(reason)
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nocolon", "it is not a class; expected MODULE:CLASS"),
        ("no.such.module:C", "it cannot be imported: No module named 'no'"),
        ("ratelimitd.errors:Nothing", "it cannot be imported: module 'ratelimitd.errors' has no attribute"),
        ("ratelimitd.errors:Problem", "it cannot be used: TypeError"),
        ("ratelimitd.errors:StoreError", "it has no method get_credentials; expected a CredentialProvider"),
    ],
)
def test_a_name_that_is_not_a_class_of_credentials_is_refused(name: str, reason: str) -> None:
    assert problem(redis_credentials=name).startswith(f"RATELIMITD_REDIS_CREDENTIALS is {name!r}: {reason}")


def test_an_option_with_a_url_wins_over_a_variable_with_its_file_and_the_reverse(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("redis://from-file\n")
    by_option = load({"RATELIMITD_REDIS_URL_FILE": str(path)}, {"redis_url": "redis://h"})
    assert access_by(by_option).url.nodes[0].host == "h"
    by_file = load({"RATELIMITD_REDIS_URL": "redis://h"}, {"redis_url_file": str(path)})
    assert access_by(by_file).url.nodes[0].host == "from-file"
    hosted = load({"RATELIMITD_REDIS_URL": "redis://h"} | environment(by_file), {})
    assert hosted == by_file


def test_no_text_of_the_settings_shows_the_url(password: str) -> None:
    settings = load({}, {"redis_url": f"redis://:{SECRET}@h"})
    assert SECRET not in repr(settings) + str(settings)
    access = access_by(load({}, {"redis_password_file": password}))
    assert SECRET not in repr(access) + repr(access.arguments()) + repr(access.url)
