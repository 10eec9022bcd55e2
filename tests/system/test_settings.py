"""Settings: where they come from, and the sentence when one is wrong."""

import pytest

from ratelimitd.core.model import OnStoreError
from ratelimitd.errors import SettingsError
from ratelimitd.settings import PREFIX, Settings, env_name, load


def test_the_defaults_stand_when_nothing_is_set() -> None:
    """Loopback, a local Redis, closed when the store is away; other programs' variables do not matter."""
    settings = load({"PATH": "/bin", "RATELIMIT_OTHER": "x"}, {})
    assert (settings.listen, settings.store_timeout_ms) == ("127.0.0.1:50051", 50)
    assert settings.on_store_error is OnStoreError.DENY


def test_a_flag_wins_over_its_variable() -> None:
    """A flag that was not given leaves the variable in force."""
    environ = {"RATELIMITD_STORE_TIMEOUT_MS": "20", "RATELIMITD_KEY_PREFIX": "env"}
    settings = load(environ, {"store_timeout_ms": "30", "key_prefix": None})
    assert (settings.store_timeout_ms, settings.key_prefix) == (30, "env")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("LISTEN", "50051", "it must be HOST:PORT, [IPV6]:PORT or unix:/path"),
        ("STORE_TIMEOUT_MS", "fast", "must be a valid integer"),
        ("STORE_TIMEOUT_MS", "0", "must be greater than or equal to 1"),
        ("ON_STORE_ERROR", "maybe", "must be 'deny', 'allow' or 'envoy'"),
        ("IDENTITY", "cookie:sid", "use header:NAME or address"),
        ("KEY_PREFIX", "a b", "string should match pattern"),
        ("LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("DRAIN_S", "nan", "must be"),
        ("ADDRESS_HEADER", "x y", "it must be one header name, or empty"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_would_be_right(
    variable: str, value: str, reason: str
) -> None:
    """One sentence, with the variable's full name."""
    with pytest.raises(SettingsError) as error:
        load({PREFIX + variable: value}, {})
    assert str(error.value).startswith(f"{PREFIX}{variable} is {value!r}: ")
    assert reason in str(error.value)


def test_an_unknown_setting_stops_the_start_with_a_guess() -> None:
    """A typing error never goes unnoticed."""
    with pytest.raises(SettingsError, match="RATELIMITD_LISTN is no setting; did you mean RATELIMITD_LISTEN"):
        load({"RATELIMITD_LISTN": "x"}, {})


def test_a_guess_is_only_made_when_one_is_near() -> None:
    """Else all are listed."""
    with pytest.raises(SettingsError, match=r"RATELIMITD_QQ is no setting; there are RATELIMITD_LISTEN, "):
        load({"RATELIMITD_QQ": "x"}, {})


def test_all_problems_are_named_at_once() -> None:
    """A line each."""
    environ = {"RATELIMITD_LISTEN": "x", "RATELIMITD_DRAIN_S": "-1", "RATELIMITD_NOPE_NOPE": ""}
    with pytest.raises(SettingsError) as error:
        load(environ, {})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:hunter2@host", "it must begin with redis://, rediss://, unix:// or be `embedded`"),
        ("user:hunter2@host:6379", "it must begin with"),
        ("redis://:p/hunter2@host:6379", "it is no URL of a store"),
        ("redis://:hunter2@host:notaport/0", "it is no URL of a store"),
        ("redis://:hunter2@host/0?foo=bar", "it is no URL of a store"),
    ],
)
def test_a_bad_url_is_refused_without_showing_its_password(url: str, reason: str) -> None:
    """What would be right is said all the same."""
    with pytest.raises(SettingsError) as error:
        load({"RATELIMITD_REDIS_URL": url}, {})
    assert str(error.value).startswith(f"RATELIMITD_REDIS_URL: {reason}")
    assert "hunter2" not in str(error.value)


def test_what_kubernetes_sets_beside_a_service_of_our_name_is_no_mistake() -> None:
    """A Service named ratelimitd must not stop its own pods."""
    links = {
        "RATELIMITD_SERVICE_HOST": "10.0.0.1",
        "RATELIMITD_SERVICE_PORT_GRPC": "50051",
        "RATELIMITD_PORT": "tcp://10.0.0.1:50051",
        "RATELIMITD_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert load(links, {}) == load({}, {})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is_and_has_a_default(name: str) -> None:
    """The description is the flag's help and the README's line."""
    field = Settings.model_fields[name]
    assert field.description
    assert not field.is_required()
    assert env_name(name) == f"RATELIMITD_{name.upper()}"
