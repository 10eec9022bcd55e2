"""Tests of store URLs: what each valid one means, and that every other one is refused in a sentence."""

import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.store.client import new_connection
from ratelimitd.store_options import OPTIONS, SENTINEL_OPTIONS, TLS_OPTIONS
from ratelimitd.store_source import check_store_url
from ratelimitd.store_url import Node, StoreUrl, parse_store_url
from tests.system.processes import run

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

SECRET = "hunter2"  # noqa: S105 - it is meant to be found


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis+sentinel://u:hunter2@a,[::1]:5,c:7/main/2",
            StoreUrl(
                "redis",
                {"username": "u", "password": SECRET, "host": "a", "port": 26379, "db": 2},
                "sentinel",
                (Node("a", 26379), Node("::1", 5), Node("c", 7)),
                "main",
            ),
        ),
        (
            "rediss+sentinel://a/main?sentinel_username=s&sentinel_password=hunter2&sentinel_tls=no",
            StoreUrl(
                "rediss",
                {"host": "a", "port": 26379, "ssl_password": ""},
                "sentinel",
                (Node("a", 26379),),
                "main",
                {"sentinel_password": SECRET, "sentinel_tls": False, "sentinel_username": "s"},
            ),
        ),
        (
            "rediss+cluster://a,b:7",
            StoreUrl(
                "rediss",
                {"host": "a", "port": 6379, "ssl_password": ""},
                "cluster",
                (Node("a", 6379), Node("b", 7)),
            ),
        ),
    ],
)
def test_a_url_with_several_nodes_means_what_it_says(url: str, expected: StoreUrl) -> None:
    check_store_url(url)
    assert parse_store_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://a", "does not name the service"),
        ("redis+sentinel://a//0", "does not name the service"),
        ("redis+sentinel://a,/main", "names no host; expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"),
        ("redis+sentinel://a/main/x", "names no database"),
        ("redis+sentinel://a/main?sentinel_username=u", "needs sentinel_password"),
        ("redis+sentinel://a/main?sentinel_tls=no", "needs rediss+sentinel://"),
        ("redis+sentinel://a/main?sentinel_password=a@hunter2", "it has a #, a second ?, or an @"),
        ("redis+sentinel://a/main?sentinel_password=hunter2%", "a % in the option sentinel_password"),
        ("redis://a?sentinel_password=hunter2", "'sentinel_password' needs redis+sentinel://"),
        ("redis+cluster://a,b/1", "has only the database 0"),
        ("redis+cluster://a?db=1", "has only the database 0"),
        ("redis+cluster://a:0,b", "PORT must be 1 to 65535; expected redis+cluster://HOST:PORT,HOST:PORT"),
    ],
)
def test_a_url_with_several_nodes_that_is_invalid_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_store_url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"host": "h", "port": 6379}),
        ("redis://h/", {"host": "h", "port": 6379}),
        ("redis://h/0", {"host": "h", "port": 6379, "db": 0}),
        ("redis://h/?db=3", {"host": "h", "port": 6379, "db": 3}),
        ("REDIS://redis-0.redis.svc.cluster.local.:1/15", {"port": 1, "db": 15}),
        ("redis://[::1]:6380/1", {"host": "::1", "port": 6380, "db": 1}),
        ("redis://[fe80::1%25eth0]", {"host": "fe80::1%eth0"}),
        ("redis://my_redis:1/2147483647", {"host": "my_redis", "db": 2147483647}),
        ("redis://:hunter2@h", {"password": SECRET}),
        ("redis://u:hunter2@h", {"username": "u", "password": SECRET}),
        ("redis://u:@h", {"username": "u", "password": ""}),
        ("redis://a%40b:%2F%3A%3F%23%25%40@h", {"username": "a@b", "password": "/:?#%@"}),
        ("redis://u:a:b+c@h", {"username": "u", "password": "a:b+c"}),
        ("redis://:pässwörd@h", {"password": "pässwörd"}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("unix://u:hunter2@/run/a%20b?db=2", {"path": "/run/a b", "db": 2, "password": SECRET}),
        ("redis://h?socket_timeout=0.5&socket_connect_timeout=2", {"socket_timeout": 0.5}),
        ("redis://h?health_check_interval=30&socket_keepalive=False", {"socket_keepalive": False}),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=no", {"ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_min_version=TLSv1.3", {"ssl_min_version": ssl.TLSVersion.TLSv1_3}),
        # Case does not matter in names of choices.
        ("rediss://h?ssl_cert_reqs=None", {"ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_min_version=TLSV1.2", {"ssl_min_version": ssl.TLSVersion.TLSv1_2}),
        (
            "rediss://h?ssl_exclude_verify_flags=verify_x509_strict",
            {"ssl_exclude_verify_flags": [ssl.VerifyFlags.VERIFY_X509_STRICT]},
        ),
        ("rediss://h?ssl_exclude_verify_flags=VERIFY_X509_STRICT", {"db": None}),
    ],
)
def test_a_valid_url_means_what_it_says(url: str, expected: dict[str, Any]) -> None:
    check_store_url(url)
    arguments = parse_store_url(url).arguments
    assert {name: arguments.get(name) for name in expected} == expected
    connection = new_connection(url)
    assert {name: getattr(connection, name) for name in ("host", "port", "path") if name in expected} == {
        name: expected[name] for name in ("host", "port", "path") if name in expected
    }


@pytest.mark.parametrize(
    "path",
    ["prod", "5abc", "0/1", "-2", "/0", "0/", "+1", "1.0", "007", "%30", "\u0663", "2147483648", "9" * 5000],
)
def test_a_path_that_is_not_a_database_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"names no database: DB must be the number of a database: 0, 1"):
        parse_store_url(f"redis://h/{path}")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://:hunter2@h", "must begin with redis://, rediss://, unix://, redis+sentinel://"),
        ("redis:/:hunter2@h", "must begin with"),
        (" redis://:hunter2@h", "must begin with"),
        ("redis://:hunter2@h\n", "white space"),
        ("redis://:hunter2 @h", "white space"),
        ("redis://:p/hunter2@h:6379", "percent-encode"),
        ("redis://:p?hunter2@h", "percent-encode"),
        ("redis://:p#hunter2@h", "percent-encode"),
        ("redis://h/0#hunter2", "it has a #"),
        ("redis://h/0?db=1?hunter2", "a second ?"),
        ("redis://user:hunter2", "PORT must be 1 to 65535"),
        ("redis://user:p/hunter2", "PORT must be 1 to 65535"),
        ("redis://:hunter2@h:0", "PORT must be 1 to 65535"),
        ("redis://:hunter2@h:70000", "PORT must be 1 to 65535"),
        ("redis://:hunter2@h:notaport/0", "PORT must be 1 to 65535"),
        ("redis://:hunter2@h:/0", "PORT must be 1 to 65535"),
        ("redis://:hunter2@h:+1", "PORT must be 1 to 65535"),
        ("redis://h:1:2", "brackets around an IPv6 address"),
        ("redis://:hunter2@::1:6379", "brackets around an IPv6 address"),
        ("redis://:hunter2@[::1", "brackets around an IPv6 address"),
        ("redis://:hunter2@[localhost]", "an IPv6 address is expected between"),
        ("redis://", "it names no host; expected SCHEME://HOST:PORT/DB"),
        ("redis:///0", "it names no host"),
        ("redis://:6379", "it names no host"),
        ("redis://:hunter2@/0", "it names no host"),
        ("redis://:hunter2@a,b/0", "HOST must be a name or an address"),
        ("redis://:hunter2@a..b/0", "HOST must be a name or an address"),
        ("redis://:hunter2@" + "a" * 64, "HOST must be a name or an address"),
        ("redis://hunter2@h", "it has a user but no password; expected USER:PASSWORD@HOST"),
        ("redis://@h", "it has a user but no password"),
        ("redis://:@h", "user and password are empty"),
        ("redis://:hunter2%zz@h", "a % in the password needs two hexadecimal digits"),
        ("redis://:hunter2%4@h", "a % in the password needs two hexadecimal digits"),
        ("redis://:hunter2%ff@h", "the password has percent-encoded bytes that are not UTF-8"),
        ("redis://h/1?db=1", "it names a database twice"),
        ("redis://h?db=1&db=2", "the option db must occur once, as db=VALUE"),
        ("redis://h?db", "the option db must occur once"),
        ("redis://h?db=", "the option db must occur once"),
        ("redis://h?db=x", "the option db is 'x' but must be the number of a database"),
        ("redis://h?&db=1", "the option '' is not allowed"),
        ("unix://", "the path of a socket is missing"),
        ("unix:///", "the path of a socket is missing"),
        ("unix://run/redis.sock", "a host comes before it; expected unix:///PATH"),
        ("unix://:hunter2@h/redis.sock", "a host comes before it"),
        ("unix:///" + "s" * 107, "at most 107 bytes"),
        ("unix:///a%00b", "none of them zero"),
        ("redis://h?socket_timeout=0", "the option socket_timeout is '0' but must be a number of seconds"),
        ("redis://h?socket_timeout=nan", "must be a number of seconds"),
        ("redis://h?socket_connect_timeout=-1", "must be a number of seconds"),
        ("redis://h?socket_connect_timeout=1e9", "must be a number of seconds"),
        ("redis://h?health_check_interval=soon", "must be a whole number of seconds"),
        ("redis://h?socket_keepalive=maybe", "must be true or false"),
        ("redis://h?ssl_ca_certs=/none", "the option 'ssl_ca_certs' needs rediss://"),
        ("rediss://h?ssl_ca_certs=/none", "'/none' but must be the path of an existing file"),
        ("rediss://h?ssl_ca_path=/none", "must be the path of an existing folder"),
        ("rediss://h?ssl_cert_reqs=no", "must be required, optional or none"),
        ("rediss://h?ssl_min_version=SSLv3", "must be TLSv1.2 or TLSv1.3"),
        ("rediss://h?ssl_exclude_verify_flags=ALL", "must be one or more of"),
        ("rediss://h?ssl_ciphers=best", "must be a list of ciphers in OpenSSL's format"),
        ("rediss://h?ssl_keyfile=/etc/passwd", "the option ssl_keyfile needs ssl_certfile"),
        ("rediss://h?ssl_password=hunter2", "the option ssl_password needs ssl_certfile"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", "so no name is checked; expected"),
    ],
)
def test_an_invalid_url_is_refused_without_showing_its_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"not a valid store URL|must begin with") as error:
        check_store_url(url)
    assert reason in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "option",
    ["decode_responses", "max_connections", "encoding", "retry", "client_name", "protocol", "password", "DB"],
)
def test_an_option_that_is_not_allowed_is_refused_with_the_list_of_those_that_are(option: str) -> None:
    for scheme, allowed in (("redis", OPTIONS), ("rediss", OPTIONS | TLS_OPTIONS), ("unix", OPTIONS)):
        with pytest.raises(ValueError, match="is not allowed") as error:
            parse_store_url(f"{scheme}://{'' if scheme == 'unix' else 'h'}/0?{option}=hunter2")
        assert str(error.value).endswith(
            f"the option {option!r} is not allowed; allowed are {', '.join(allowed)}"
        )


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    for option in ("ssl_ca_certs", "ssl_certfile"):
        (tmp_path / "empty.pem").touch()
        with pytest.raises(ValueError, match=r"its TLS files cannot be used: .*; expected PEM files"):
            check_store_url(f"rediss://h?{option}={tmp_path}/empty.pem")


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--listen", "127.0.0.1:0"), ("admin", "--admin-listen", "127.0.0.1:0"), ("policy", "status")],
)
async def test_every_command_refuses_an_invalid_url_in_one_line(arguments: tuple[str, ...]) -> None:
    status, output = await run(*arguments, env={"RATELIMITD_REDIS_URL": "redis://:hunter2@127.0.0.1/prod"})
    assert status == 1
    assert output == (
        "ratelimitd: RATELIMITD_REDIS_URL: not a valid store URL: the path '/prod' names no database: "
        "DB must be the number of a database: 0, 1, 2 and so on, as in redis://HOST:PORT/0\n"
    )


def test_the_documentation_lists_the_options() -> None:
    documented = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", OPERATIONS.read_text(), re.MULTILINE)
    names = [name.strip("`") for cell in documented for name in cell.split(", ")]
    assert set(names) >= set(OPTIONS | TLS_OPTIONS | SENTINEL_OPTIONS)
