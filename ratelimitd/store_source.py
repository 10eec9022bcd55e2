"""Where the URL and the credentials of a store come from: texts, and files that are read again and again."""

from typing import Any, NamedTuple

from ratelimitd.secret_file import read_secret
from ratelimitd.store_tls import Tls, TlsReader
from ratelimitd.store_url import StoreUrl, parse_store_url

Pair = tuple[str] | tuple[str, str]
"""Arguments of AUTH: a password, or a user and a password."""


EMBEDDED = "embedded"
"""The store URL that stands for the bundled Valkey, started as a child process."""

_USER = "RATELIMITD_REDIS_USERNAME"
_FILE = "RATELIMITD_REDIS_PASSWORD_FILE"
_PROVIDER = "RATELIMITD_REDIS_CREDENTIALS"
_SENTINEL_USER = "RATELIMITD_SENTINEL_USERNAME"
_SENTINEL_FILE = "RATELIMITD_SENTINEL_PASSWORD_FILE"


class StoreSource(NamedTuple):
    """What the settings say about a store. An empty text is not set.

    Args:
        url: the URL, unless it stands in a file.
        url_file: path of a file with the URL.
        username: user to authenticate as, if the URL names none.
        password_file: path of a file with the user's password.
        provider: MODULE:NAME of a credential provider.
        sentinel_username: user of the Sentinels.
        sentinel_password_file: path of a file with the password of the Sentinels.
    """

    url: str = ""
    url_file: str = ""
    username: str = ""
    password_file: str = ""
    provider: str = ""
    sentinel_username: str = ""
    sentinel_password_file: str = ""


class Server(NamedTuple):
    """A store as its URL describes it.

    Args:
        url: the URL without credentials.
        credentials: user and password of the URL; None without a password.
        tls: the TLS of its connections; None without TLS.
    """

    url: StoreUrl
    credentials: Pair | None
    tls: Tls | None


class ServerReader:
    """Reads the URL of a source and the files that it names.

    Args:
        source: where the URL comes from.
    """

    def __init__(self, source: StoreSource) -> None:
        self._source = source
        self._tls = TlsReader()
        self._topology = ""

    def read(self) -> Server:
        """Returns the store of the URL. Raises ValueError with a sentence that shows no secret.

        The topology is that of the first call, because other parts depend on it.
        """
        found = parse_store_url(_text(self._source))
        if found.topology != self._topology and self._topology:
            raise ValueError(
                f"the topology of the store is {found.topology} now, and was {self._topology} at the start; "
                "restart to change it"
            )
        tls = self._tls.read(_with_prefix(found.arguments, "ssl_")) if found.scheme == "rediss" else None
        others = {name: value for name, value in found.arguments.items() if not name.startswith("ssl_")}
        username, password = others.pop("username", ""), others.pop("password", None)
        credentials = None if password is None else _pair(username or self._source.username, password)
        _check_combination(self._source, found)
        self._topology = found.topology
        return Server(found._replace(arguments=others), credentials, tls)


def check_store_source(source: StoreSource) -> None:
    """Raises ValueError with a sentence for settings that contradict each other."""
    if source.url.lower() == EMBEDDED:
        if any(source[1:]):
            raise ValueError(
                "an `embedded` store has no users; expected a URL, or no setting for credentials"
            )
        return
    _check_combination(source, parse_store_url(_text(source)))


def check_store_url(url: str = "", *, url_file: str = "") -> None:
    """Raises ValueError, with a sentence, for a URL that cannot be used. It also loads the files for TLS."""
    ServerReader(StoreSource(url=url, url_file=url_file)).read()


def _text(source: StoreSource) -> str:
    """Returns the URL of a source. Raises ValueError."""
    text = read_secret(source.url_file) if source.url_file else source.url
    if source.url_file and text.lower() == EMBEDDED:
        raise ValueError("the file holds `embedded`; expected a URL, or `embedded` without a file")
    return text


def _check_combination(source: StoreSource, url: StoreUrl) -> None:
    username, password = url.arguments.get("username"), url.arguments.get("password")
    if source.provider and (source.password_file or source.username or password is not None):
        raise ValueError(
            f"{_PROVIDER} is set, so a user or a password in the URL, {_USER} and {_FILE} "
            "would have no effect; expected only one of them"
        )
    if password is not None and source.password_file:
        raise ValueError(f"the URL has a password, and {_FILE} is set; expected only one of them")
    if username and source.username:
        raise ValueError(f"the URL has a user, and {_USER} is set; expected only one of them")
    if source.username and password is None and not source.password_file:
        raise ValueError(
            f"{_USER} is set without a password; expected {_FILE} as well, or USER:@HOST in the "
            "URL for a user without a password"
        )
    _check_sentinel(source, url)


def _check_sentinel(source: StoreSource, url: StoreUrl) -> None:
    if source.sentinel_username and not source.sentinel_password_file:
        raise ValueError(f"{_SENTINEL_USER} is set without {_SENTINEL_FILE}; expected both")
    if source.sentinel_password_file and url.topology != "sentinel":
        raise ValueError(f"{_SENTINEL_FILE} is set, but the URL does not name Sentinels")
    if source.sentinel_password_file and "sentinel_password" in url.sentinel:
        raise ValueError(
            f"the URL has the option sentinel_password, and {_SENTINEL_FILE} is set; expected only "
            "one of them"
        )


def pair_of_file(username: str, password_file: str) -> Pair | None:
    """Returns the credentials with the password of a file, or None without a file. Raises ValueError."""
    return _pair(username, read_secret(password_file)) if password_file else None


def _pair(username: str, password: str) -> Pair:
    return (username, password) if username else (password,)


def _with_prefix(arguments: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name.startswith(prefix)}
