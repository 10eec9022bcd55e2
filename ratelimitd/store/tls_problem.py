"""Says in one sentence why TLS to a store cannot work, for a start that should not wait for it."""

import asyncio
import ssl
from contextlib import suppress

from redis.asyncio.connection import AbstractConnection

from ratelimitd.store.connections import TcpConnection
from ratelimitd.store_tls import Tls
from ratelimitd.store_url import Node

PROBE_S = 1.0
"""How long the question whether a server uses TLS may take."""

_NAME, _EXPIRED, _EARLY = {62, 64}, 10, 9
_UNKNOWN_CA = {2, 18, 19, 20, 21}
"""Codes of OpenSSL's verification: X509_V_ERR_*."""


async def tls_problem(connection: AbstractConnection, error: BaseException) -> str | None:
    """Returns why a connection failed if it is about TLS, else None.

    Args:
        connection: the connection, closed.
        error: what its attempt to connect raised.
    """
    if not isinstance(connection, TcpConnection):
        return None
    node = Node(connection.host, connection.port)
    found = _tls_error(error)
    if found is None and connection.tls is not None and not isinstance(error, TimeoutError):
        found = await _alert(node, connection.tls)
    if isinstance(found, ssl.SSLCertVerificationError):
        name = (connection.tls and connection.tls.server_name) or connection.host
        return f"the certificate of {node} {_of_verification(found, name)}"
    if found is not None and "ALERT" in str(found.reason):
        return f"{node} {_of_alert(str(found.reason))}"
    if connection.tls is not None and await _answers_without_tls(node):
        return f"{node} does not use TLS; expected a URL that begins with redis instead of rediss"
    if connection.tls is None and not isinstance(error, TimeoutError) and await _answers_with_tls(node):
        return f"{node} uses TLS; expected a URL that begins with rediss instead of redis"
    return None


def _of_alert(reason: str) -> str:
    """Returns what an alert of the server means, such as TLSV13_ALERT_CERTIFICATE_REQUIRED."""
    text = reason.partition("ALERT_")[2].replace("_", " ").lower()
    if text == "certificate required":
        return "requires a certificate of the client; expected ssl_certfile and ssl_keyfile in the URL"
    return f"refused the TLS handshake, perhaps for the client's certificate: {text}"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Returns the error of TLS among the causes of an error."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


async def _alert(node: Node, tls: Tls) -> ssl.SSLError | None:
    """Returns the alert that the server sends after a handshake.

    A client that writes may miss it, because the server has closed the connection by then.
    """
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(
                *node, ssl=tls.context, server_hostname=tls.server_name or node.host
            )
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except OSError as error:
        return _tls_error(error)
    return None


def _of_verification(error: ssl.SSLCertVerificationError, name: str) -> str:
    if error.verify_code in _NAME:
        return f"is not valid for {name}; expected a name that it has, as the host or in ssl_server_name"
    if error.verify_code == _EXPIRED:
        return "has expired"
    if error.verify_code == _EARLY:
        return "is not valid yet; expected that the clock of this machine is right"
    if error.verify_code in _UNKNOWN_CA:
        return f"is signed by an unknown CA ({error.verify_message}); expected its CA in ssl_ca_certs"
    return f"cannot be verified: {error.verify_message}"


async def _answers_without_tls(node: Node) -> bool:
    with suppress(OSError):  # a TimeoutError is one
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(*node)
            try:
                writer.write(b"PING\r\n")
                return await reader.read(1) in {b"+", b"-"}  # PONG, or NOAUTH
            finally:
                writer.transport.abort()
    return False


async def _answers_with_tls(node: Node) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    with suppress(OSError):
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(*node, ssl=context, server_hostname=node.host)
            writer.transport.abort()
            return True
    return False
