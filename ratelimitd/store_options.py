"""The options that a store URL may have, such as `?ssl_ca_certs=/etc/ca.pem`, and the check of each value."""

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAX_DATABASE = 2**31 - 1
"""Redis keeps the number of a database in 32 bits."""

MAX_TIMEOUT_S = 60.0
MAX_HEALTH_CHECK_INTERVAL_S = 3600

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TLS_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def database(text: str) -> int:
    """Returns the number of a database. Raises ValueError for anything but decimal digits."""
    if not text.isascii() or not text.isdigit() or str(int(text[:10])) != text or int(text) > MAX_DATABASE:
        raise ValueError("must be the number of a database: 0, 1, 2 and so on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= MAX_TIMEOUT_S or "_" in text:
        raise ValueError(f"must be a number of seconds above 0, at most {MAX_TIMEOUT_S:g}")
    return seconds


def _interval(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text[:9]) > MAX_HEALTH_CHECK_INTERVAL_S:
        raise ValueError(f"must be a whole number of seconds from 0 to {MAX_HEALTH_CHECK_INTERVAL_S}")
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("must be true or false")
    return _BOOLEANS[text.lower()]


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("must be the path of an existing file")
    return text


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError("must be the path of an existing folder")
    return text


def _verification(text: str) -> str:
    if text.lower() not in {"required", "optional", "none"}:
        raise ValueError("must be required, optional or none")
    return text.lower()


def _server_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", text):
        raise ValueError("must be the name of a host, without a port")
    return text


def _tls_version(text: str) -> ssl.TLSVersion:
    for name, version in _TLS_VERSIONS.items():
        if text.lower() in {name.lower(), str(int(version))}:
            return version
    raise ValueError(f"must be {' or '.join(_TLS_VERSIONS)}")


def _ciphers(text: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except ssl.SSLError as error:
        raise ValueError(
            "must be a list of ciphers in OpenSSL's format that allows one for TLS 1.2"
        ) from error
    return text


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    names = [name.strip().upper() for name in text.strip("[]").split(",")]
    if any(name not in ssl.VerifyFlags.__members__ for name in names):
        raise ValueError(f"must be one or more of {', '.join(ssl.VerifyFlags.__members__)}")
    return [ssl.VerifyFlags[name] for name in names]


class Option(NamedTuple):
    """An option of a URL: the check of its text, and whether its value may be shown."""

    parse: Callable[[str], Any]
    secret: bool = False


OPTIONS = {
    "db": Option(database),
    "health_check_interval": Option(_interval),
    "socket_connect_timeout": Option(_seconds),
    "socket_keepalive": Option(_boolean),
    "socket_timeout": Option(_seconds),
}
"""Options of every store URL."""

TLS_OPTIONS = {
    "ssl_ca_certs": Option(_file),
    "ssl_ca_path": Option(_folder),
    "ssl_cert_reqs": Option(_verification),
    "ssl_certfile": Option(_file),
    "ssl_check_hostname": Option(_boolean),
    "ssl_ciphers": Option(_ciphers),
    "ssl_exclude_verify_flags": Option(_verify_flags),
    "ssl_keyfile": Option(_file),
    "ssl_min_version": Option(_tls_version),
    "ssl_password": Option(str, secret=True),
    "ssl_server_name": Option(_server_name),
}
"""Options of a store URL with TLS."""

SENTINEL_OPTIONS = {
    "sentinel_password": Option(str, secret=True),
    "sentinel_tls": Option(_boolean),
    "sentinel_username": Option(str),
}
"""Options of a store URL with Sentinels, about the connections to these."""


def check_sentinel_options(options: Mapping[str, Any], *, tls: bool) -> None:
    """Raises ValueError for an option that would have no effect. `tls`: the store uses TLS."""
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise ValueError("the option sentinel_username needs sentinel_password")
    if "sentinel_tls" in options and not tls:
        raise ValueError(
            "the option sentinel_tls needs rediss+sentinel://, as it turns TLS off for Sentinels"
        )


def check_tls_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that another one would leave without effect."""
    for name, needed in (("ssl_keyfile", "ssl_certfile"), ("ssl_password", "ssl_certfile")):
        if name in options and needed not in options:
            raise ValueError(f"the option {name} needs {needed}, the client's certificate")
    if options.get("ssl_check_hostname") and options.get("ssl_cert_reqs") == "none":
        raise ValueError(
            "the option ssl_check_hostname is true, but ssl_cert_reqs is none, so no name is checked; "
            "expected ssl_cert_reqs=required or ssl_check_hostname=false"
        )
