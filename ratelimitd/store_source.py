"""Where the URL and the credentials of a store come from: texts, and files that are read again and again."""

from typing import Any, NamedTuple

from ratelimitd.secret_file import read_secret
from ratelimitd.store_tls import Tls, TlsReader
from ratelimitd.store_url import StoreUrl, parse_store_url

Pair = tuple[str] | tuple[str, str]
"""Arguments of AUTH: a password, or a user and a password."""


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
        credentials: those of the URL, if it has any.
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
        text = read_secret(self._source.url_file) if self._source.url_file else self._source.url
        found = parse_store_url(text)
        if found.topology != self._topology and self._topology:
            raise ValueError(
                f"the topology of the store is {found.topology} now, and was {self._topology} at the start; "
                "restart to change it"
            )
        tls = self._tls.read(_with_prefix(found.arguments, "ssl_")) if found.scheme == "rediss" else None
        others = {name: value for name, value in found.arguments.items() if not name.startswith("ssl_")}
        username, password = others.pop("username", ""), others.pop("password", None)
        credentials = None if password is None else _pair(username or self._source.username, password)
        self._check(username, password)
        self._topology = found.topology
        return Server(found._replace(arguments=others), credentials, tls)

    def _check(self, username: str, password: str | None) -> None:
        """Raises ValueError if the URL has what another setting has too."""
        source = self._source
        if password is not None and (source.password_file or source.provider):
            other = "redis_password_file" if source.password_file else "redis_credentials"
            raise ValueError(f"the URL has a password, and {other} is set as well; expected one of them")
        if username and source.username:
            raise ValueError("the URL has a user, and redis_username is set as well; expected one of them")
        if source.username and password is None and not source.password_file:
            raise ValueError(
                "redis_username is set without a password; expected redis_password_file too, or USER:@HOST "
                "in the URL for a user without a password"
            )


def pair_of_file(username: str, password_file: str) -> Pair | None:
    """Returns the credentials with the password of a file, or None without a file. Raises ValueError."""
    return _pair(username, read_secret(password_file)) if password_file else None


def _pair(username: str, password: str) -> Pair:
    return (username, password) if username else (password,)


def _with_prefix(arguments: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name.startswith(prefix)}


def check_store_url(url: str) -> None:
    """Raises ValueError, with a sentence, for a URL that cannot be used. It also loads the files for TLS."""
    ServerReader(StoreSource(url=url)).read()
