"""Tests of reading settings, and of the error when one is invalid."""

import re
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import pytest

from ratelimitd.address import UnixAddress
from ratelimitd.core.model import OnStoreError
from ratelimitd.errors import SettingsError
from ratelimitd.service_links import is_service_link
from ratelimitd.settings import EMPTY_MEANS_OFF, PREFIX, Settings, env_name, environment, load


def test_defaults_hold_and_other_variables_are_ignored() -> None:
    settings = load({"PATH": "/bin", "RATELIMIT_OTHER": "x"}, {})
    assert (settings.listen, settings.store_timeout_ms) == ("127.0.0.1:50051", 50)
    assert settings.on_store_error is OnStoreError.DENY


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"RATELIMITD_STORE_TIMEOUT_MS": "20", "RATELIMITD_KEY_PREFIX": "env"}
    settings = load(environ, {"store_timeout_ms": "30", "key_prefix": None})
    assert (settings.store_timeout_ms, settings.key_prefix) == (30, "env")


@pytest.mark.parametrize("value", ["4194304", "4.194304e+06", "4194304.0"])
def test_a_whole_number_may_have_an_exponent_or_a_decimal_point(value: str) -> None:
    assert load({"RATELIMITD_MAX_MESSAGE_BYTES": value}, {}).max_message_bytes == 4_194_304
    assert load({}, {"max_message_bytes": value}).max_message_bytes == 4_194_304


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("LISTEN", "50051", "must be HOST:PORT, [IPV6]:PORT or unix:/path"),
        ("STORE_TIMEOUT_MS", "fast", "must be a whole number"),
        ("STORE_TIMEOUT_MS", "1.5", "must be a whole number"),
        ("STORE_TIMEOUT_MS", "1e999", "must be a whole number"),
        ("STORE_TIMEOUT_MS", "0", "must be greater than or equal to 1"),
        ("ON_STORE_ERROR", "maybe", "must be 'deny', 'allow', 'envoy' or 'local'"),
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


@pytest.mark.parametrize("variable", ["RATELIMITD_QQ", "RATELIMITD_PORT", "RATELIMITD_"])
def test_without_a_similar_name_the_error_lists_all_settings(variable: str) -> None:
    with pytest.raises(
        SettingsError, match=f"unknown setting {variable}; expected one of RATELIMITD_LISTEN, "
    ):
        load({variable: "50051"}, {})


def test_all_problems_are_reported_at_once() -> None:
    environ = {"RATELIMITD_LISTEN": "x", "RATELIMITD_DRAIN_S": "-1", "RATELIMITD_NOPE_NOPE": ""}
    with pytest.raises(SettingsError) as error:
        load(environ, {})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:hunter2@host", "must begin with redis://, rediss://, unix://, redis+sentinel://"),
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


@pytest.mark.parametrize(
    "service", ["", "_REDIS", "_ADMIN", "_REDIS_MASTER", "_LISTEN", "_REDIS_URL", "_PORT"]
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_HOST", "fd00::1"),
        ("SERVICE_PORT", "50051"),
        ("SERVICE_PORT_GRPC", "50051"),
        ("SERVICE_PORT_HTTP_ADMIN", "9090"),
        ("PORT", "tcp://10.0.0.1:50051"),
        ("PORT", "udp://10.0.0.1:53"),
        ("PORT", "sctp://[fd00::1]:36412"),
        ("PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("PORT_50051_TCP_PORT", "50051"),
        ("PORT_50051_TCP_PROTO", "tcp"),
        ("PORT_53_UDP_ADDR", "10.0.0.1"),
        ("PORT_36412_SCTP_PROTO", "sctp"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_are_ignored(
    service: str, name: str, value: str
) -> None:
    """A Service named ratelimitd, or ratelimitd-redis, must not stop its neighbours."""
    assert load({f"RATELIMITD{service}_{name}": value}, {}) == load({}, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RATELIMITD_PORT", "50051"),
        ("RATELIMITD_ADMIN_PORT", "9090"),
        ("RATELIMITD_REDIS_PORT", "6379"),
        ("RATELIMITD_REDIS_PORT", "redis://redis:6379"),
        ("RATELIMITD_REDIS_HOST", "redis"),
        ("RATELIMITD_LISTEN_ADDR", "tcp://127.0.0.1:50051"),
        ("RATELIMITD_LISTN", ""),
    ],
)
def test_a_mistyped_setting_that_resembles_a_variable_of_kubernetes_is_refused(
    variable: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {variable}; "):
        load({variable: value}, {})


def test_no_setting_has_the_name_of_a_variable_of_kubernetes() -> None:
    for value in ("x", "tcp://10.0.0.1:50051"):
        assert not [name for name in Settings.model_fields if is_service_link(env_name(name), value)]


@pytest.mark.parametrize("value", ["", " ", "\t\r\n"])
@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in EMPTY_MEANS_OFF])
def test_an_empty_variable_counts_as_not_set(name: str, value: str) -> None:
    assert load({env_name(name): value}, {}) == load({}, {})


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in Settings.model_fields.items()
        if field.default != "" and name not in EMPTY_MEANS_OFF
    ],
)
def test_an_empty_flag_is_refused_where_a_setting_needs_a_value(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{env_name(name)}.*: "):
        load({}, {name: ""})


@pytest.mark.parametrize("value", ["", " ", "off", "OFF"])
def test_metrics_are_off_when_their_address_is_empty_or_off(value: str) -> None:
    by_variable, by_flag = load({"RATELIMITD_METRICS_LISTEN": value}, {}), load({}, {"metrics_listen": value})
    assert by_variable == by_flag
    assert by_variable.metrics_address() is None
    assert load(environment(by_variable), {}).metrics_address() is None


@pytest.mark.parametrize("value", ["9091", "host", "unix:/run/m.sock", "127.0.0.1:65536", "::1:9091", "on"])
def test_the_address_of_the_metrics_must_be_a_tcp_address(value: str) -> None:
    sentence = f"RATELIMITD_METRICS_LISTEN is '{value}': must be HOST:PORT or [IPV6]:PORT, or `off`"
    with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}"):
        load({"RATELIMITD_METRICS_LISTEN": value}, {})


def test_an_empty_flag_wins_over_a_variable() -> None:
    assert load({"RATELIMITD_ADDRESS_HEADER": "x-client"}, {"address_header": ""}).address_header == ""


def test_white_space_around_a_value_is_removed() -> None:
    environ = {"RATELIMITD_REDIS_URL": "redis://h:6379/0\n", "RATELIMITD_LOG_LEVEL": "debug\r"}
    settings = load(environ, {"listen": " 127.0.0.1:1 "})
    assert (settings.redis_url, settings.log_level) == ("redis://h:6379/0", "debug")
    assert settings.listen == "127.0.0.1:1"


def choices(annotation: Any) -> list[str]:
    """Returns the values of a Literal or an enum, and none for other types."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []


CHOICES = [
    (name, choice)
    for name, field in Settings.model_fields.items()
    for choice in (
        [*choices(field.annotation), "embedded"] if name == "redis_url" else choices(field.annotation)
    )
]


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_the_case_of_a_choice_does_not_matter(name: str, choice: str) -> None:
    for written in (choice.upper(), choice.title()):
        assert getattr(load({env_name(name): written}, {}), name) == choice
        assert getattr(load({}, {name: written}), name) == choice


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_variables_made_from_settings_lead_to_the_same_settings(name: str) -> None:
    """The transport `fast` passes its settings to another process in this form."""
    given = {"LISTEN": "[::1]:0", "TRANSPORT": "FAST", "ON_STORE_ERROR": "Allow", "LEAVE_S": "0.5"}
    settings = load({PREFIX + key: value for key, value in given.items()}, {})
    assert getattr(load(environment(settings), {}), name) == getattr(settings, name)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description_and_a_default(name: str) -> None:
    """The description is the flag's help and the text in docs/settings.md."""
    field = Settings.model_fields[name]
    assert field.description
    assert not field.is_required()
    assert env_name(name) == f"RATELIMITD_{name.upper()}"


@pytest.mark.parametrize("mode", ["660", "0660", "777", "600"])
def test_the_mode_of_a_socket_is_octal(mode: str) -> None:
    settings = load({}, {"listen": "unix:/run/r.sock", "listen_mode": mode})
    assert settings.listen_address() == UnixAddress("/run/r.sock", int(mode, 8))


@pytest.mark.parametrize("mode", ["66", "999", "rw-rw----", "0o660", "060", "6600", "-660"])
def test_a_mode_that_shuts_out_the_owner_or_is_not_octal_is_refused(mode: str) -> None:
    with pytest.raises(SettingsError, match="must be three octal digits such as 660"):
        load({}, {"listen": "unix:/run/r.sock", "listen_mode": mode})


@pytest.mark.parametrize("listen", [{}, {"listen": "127.0.0.1:50051"}])
def test_a_mode_without_a_unix_socket_is_refused(listen: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as error:
        load({}, {"listen_mode": "660", **listen})
    assert str(error.value) == (
        "RATELIMITD_LISTEN_MODE is '660': needs a Unix socket in RATELIMITD_LISTEN, such as "
        "unix:/run/ratelimitd/ratelimitd.sock"
    )


@pytest.mark.parametrize("rate", ["10/s", "100/min", "1/h", "1/day", "0.5/s", "1000/s", "1e2/s"])
def test_the_log_of_denials_has_a_rate(rate: str) -> None:
    assert load({}, {"log_denials": rate}).log_denials == rate


@pytest.mark.parametrize("rate", ["", "off", "OFF"])
def test_the_log_of_denials_can_be_off_at_every_level(rate: str) -> None:
    assert load({}, {"log_denials": rate, "log_level": "error"}).log_denials == ""


@pytest.mark.parametrize(
    ("rate", "problem"),
    [
        ("10", "must be a number, a slash and s, min, h or day, such as 100/min"),
        ("10/m", "must be a number, a slash and s, min, h or day, such as 100/min"),
        ("-1/s", "must be a number, a slash and s, min, h or day, such as 100/min"),
        ("0/s", "must be from 1/day to 1000/s"),
        ("0.5/day", "must be from 1/day to 1000/s"),
        ("1001/s", "must be from 1/day to 1000/s"),
    ],
)
def test_an_impossible_rate_of_the_log_of_denials_is_refused(rate: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, {"log_denials": rate})
    assert str(caught.value) == f"RATELIMITD_LOG_DENIALS is {rate!r}: {problem}"


@pytest.mark.parametrize("level", ["warning", "ERROR"])
def test_the_log_of_denials_needs_a_level_at_which_it_is_written(level: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^RATELIMITD_LOG_DENIALS .*needs RATELIMITD_LOG_LEVEL info or debug"
    ):
        load({}, {"log_denials": "10/s", "log_level": level})
    assert load({}, {"log_denials": "", "log_level": level}).log_denials == ""
