"""The TLS context of a store URL, made again when one of its files has changed.

A new context costs about 10 ms, most of it for the certificates of the system, so connections share one.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import SSLConnection

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Options that name a file. OpenSSL itself looks into the folder of `ssl_ca_path` again."""

SERVER_NAME = "ssl_server_name"

_EXPECTED = (
    "expected PEM files: certificates in ssl_ca_certs, the client's certificate in ssl_certfile, its private "
    "key in ssl_keyfile or in the same file, and in ssl_password the password of the key if it has one"
)


class Tls(NamedTuple):
    """TLS of a connection.

    Args:
        context: the certificates, and what is verified.
        server_name: the name to send (SNI) and to verify; None for the host of the connection.
    """

    context: ssl.SSLContext
    server_name: str | None


class TlsReader:
    """Makes the TLS of a URL, and returns the same one until a file or an option changes."""

    def __init__(self) -> None:
        self._made: tuple[object, Tls] | None = None

    def read(self, options: Mapping[str, Any]) -> Tls:
        """Returns the TLS for the options of a URL that begin with `ssl_`.

        Raises ValueError with a sentence if a file cannot be used.
        """
        try:
            contents = [Path(options[name]).read_bytes() for name in FILES if name in options]
            key = (dict(options), contents)
            if self._made is None or self._made[0] != key:
                arguments = {name: value for name, value in options.items() if name != SERVER_NAME}
                context = SSLConnection(**arguments).ssl_context.get()
                self._made = key, Tls(context, options.get(SERVER_NAME))
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            raise ValueError(
                f"not a valid store URL: its TLS files cannot be used: {error}; {_EXPECTED}"
            ) from error
        return self._made[1]
