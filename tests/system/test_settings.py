"""Tests of reading settings, and of the error when one is invalid."""

import pytest

from ratelimitd.core.model import OnStoreError
from ratelimitd.errors import SettingsError
from ratelimitd.settings import PREFIX, Settings, env_name, load


def test_defaults_hold_and_other_variables_are_ignored() -> None:
    settings = load({"PATH": "/bin", "RATELIMIT_OTHER": "x"}, {})
    assert (settings.listen, settings.store_timeout_ms) == ("127.0.0.1:50051", 50)
    assert settings.on_store_error is OnStoreError.DENY


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"RATELIMITD_STORE_TIMEOUT_MS": "20", "RATELIMITD_KEY_PREFIX": "env"}
    settings = load(environ, {"store_timeout_ms": "30", "key_prefix": None})
    assert (settings.store_timeout_ms, settings.key_prefix) == (30, "env")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("LISTEN", "50051", "must be HOST:PORT, [IPV6]:PORT or unix:/path"),
        ("STORE_TIMEOUT_MS", "fast", "must be a valid integer"),
        ("STORE_TIMEOUT_MS", "0", "must be greater than or equal to 1"),
        ("ON_STORE_ERROR", "maybe", "must be 'deny', 'allow' or 'envoy'"),
        ("IDENTITY", "cookie:sid", "use header:NAME or address"),
        ("KEY_PREFIX", "a b", "string should match pattern"),
        ("LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("DRAIN_S", "nan", "must be"),
        ("ADDRESS_HEADER", "x y", "must be one header name, or empty"),
    ],
)
def test_an_error_names_the_bad_setting_its_value_and_the_expected_form(
    variable: str, value: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load({PREFIX + variable: value}, {})
    assert str(error.value).startswith(f"{PREFIX}{variable} is {value!r}: ")
    assert reason in str(error.value)


def test_an_unknown_setting_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(
        SettingsError, match="unknown setting RATELIMITD_LISTN; did you mean RATELIMITD_LISTEN"
    ):
        load({"RATELIMITD_LISTN": "x"}, {})


def test_without_a_similar_name_the_error_lists_all_settings() -> None:
    with pytest.raises(
        SettingsError, match=r"unknown setting RATELIMITD_QQ; expected one of RATELIMITD_LISTEN, "
    ):
        load({"RATELIMITD_QQ": "x"}, {})


def test_all_problems_are_reported_at_once() -> None:
    environ = {"RATELIMITD_LISTEN": "x", "RATELIMITD_DRAIN_S": "-1", "RATELIMITD_NOPE_NOPE": ""}
    with pytest.raises(SettingsError) as error:
        load(environ, {})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:hunter2@host", "must begin with redis://, rediss://, unix://, or be `embedded`"),
        ("user:hunter2@host:6379", "must begin with"),
        ("redis://:p/hunter2@host:6379", "not a valid store URL"),
        ("redis://:hunter2@host:notaport/0", "not a valid store URL"),
        ("redis://:hunter2@host/0?foo=bar", "not a valid store URL"),
    ],
)
def test_a_bad_url_is_rejected_without_showing_its_password(url: str, reason: str) -> None:
    with pytest.raises(SettingsError) as error:
        load({"RATELIMITD_REDIS_URL": url}, {})
    assert str(error.value).startswith(f"RATELIMITD_REDIS_URL: {reason}")
    assert "hunter2" not in str(error.value)


def test_variables_that_kubernetes_sets_are_ignored() -> None:
    """A Service named ratelimitd must not stop its own pods."""
    links = {
        "RATELIMITD_SERVICE_HOST": "10.0.0.1",
        "RATELIMITD_SERVICE_PORT_GRPC": "50051",
        "RATELIMITD_PORT": "tcp://10.0.0.1:50051",
        "RATELIMITD_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert load(links, {}) == load({}, {})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description_and_a_default(name: str) -> None:
    """The description is the flag's help and the README's text."""
    field = Settings.model_fields[name]
    assert field.description
    assert not field.is_required()
    assert env_name(name) == f"RATELIMITD_{name.upper()}"
