"""Files with certificates and keys: reads them, and refuses those with which TLS cannot work.

A pair that is read has been used for a TLS handshake in memory, so the key belongs to the certificate, and
the certificate is valid now.
"""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ratelimitd.errors import CertificateError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_HANDSHAKE_ROUNDS = 4
"""A handshake of TLS 1.3 takes two rounds of reading and writing on each side."""


class CertificateFiles(NamedTuple):
    """Files in PEM format that one side of a TLS connection uses.

    Args:
        certificate: the certificate of this side, followed by intermediate ones; empty for none.
        key: its private key, without a password.
        ca: certificates of the authorities that this side trusts; empty for none.
    """

    certificate: str
    key: str
    ca: str = ""


class ServerTls(NamedTuple):
    """How a server uses TLS.

    Args:
        files: its certificate; with `ca`, each client needs a certificate of one of these authorities.
        client_names: DNS names, URIs or IP addresses. A client's certificate needs one; empty for any name.
    """

    files: CertificateFiles
    client_names: tuple[str, ...] = ()


class ClientTls(NamedTuple):
    """How a client uses TLS.

    Args:
        files: the authorities of the server, and the client's certificate if the server wants one.
        server_name: the name that the server's certificate must have; empty for the host of the address.
    """

    files: CertificateFiles
    server_name: str = ""


class Certificates(NamedTuple):
    """The contents of CertificateFiles, checked. A file that is not named is empty.

    Args:
        certificate: the certificate of this side, then intermediate ones.
        key: its private key.
        ca: certificates of the authorities that this side trusts.
        not_after: when the certificate expires, such as "Nov 27 12:00:00 2026 GMT".
    """

    certificate: bytes
    key: bytes
    ca: bytes
    not_after: str

    @property
    def expires_s(self) -> int:
        """When the certificate expires, in seconds since the epoch."""
        return ssl.cert_time_to_seconds(self.not_after)

    @property
    def first(self) -> bytes:
        """The certificate of this side in DER, without intermediate ones."""
        return _first(self.certificate)


def file_contents(files: CertificateFiles) -> tuple[bytes, ...]:
    """Returns what the files hold, unchecked. Raises CertificateError for one that cannot be read."""
    return tuple(_content(name) for name in files)


def read_certificates(files: CertificateFiles) -> Certificates:
    """Returns the contents of the files. Raises CertificateError with a sentence that names the file."""
    certificate, key, ca = file_contents(files)
    if files.ca:
        _check_ca(files.ca, ca)
    not_after = _check_pair(files, certificate, key) if files.certificate else ""
    if file_contents(files) != (certificate, key, ca):
        raise CertificateError(f"{files.certificate or files.ca} is being changed")
    return Certificates(certificate, key, ca, not_after)


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes() if name else b""
    except OSError as error:
        raise CertificateError(f"cannot read {name}: {error.strerror}") from error


def _check_ca(name: str, content: bytes) -> None:
    if not _CERTIFICATE.search(content):
        raise CertificateError(f"{name} has no certificate in PEM format; expected those of the authorities")
    with _reported(lambda reason: f"the certificates in {name} cannot be used: {reason}"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)


def _check_pair(files: CertificateFiles, certificate: bytes, key: bytes) -> str:
    """Makes a connection in memory with a certificate and its key. Returns when the certificate expires."""
    if not _CERTIFICATE.search(certificate):
        raise CertificateError(f"{files.certificate} has no certificate in PEM format")
    if not _KEY.search(key):
        raise CertificateError(f"{files.key} has no private key in PEM format")

    def no_password() -> str:
        raise CertificateError(f"the key in {files.key} needs a password; expected a key without one")

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(files.certificate, files.key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"the key in {files.key} does not belong to the first certificate in {files.certificate}"
            ) from error
        raise CertificateError(
            f"{files.certificate} and {files.key} cannot be used: {_reason(error)}"
        ) from error
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # trust it without its authority
    with _reported(lambda reason: f"the first certificate in {files.certificate} is not valid: {reason}"):
        client.load_verify_locations(cadata=_first(certificate))
        return str(_peer_certificate(server, client)["notAfter"])


def _first(certificate: bytes) -> bytes:
    found = _CERTIFICATE.search(certificate)
    return ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")) if found else b""


def _peer_certificate(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Returns the server's certificate as the client sees it. Raises ssl.SSLError if it is not valid."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_HANDSHAKE_ROUNDS):
        for side in (client_side, server_side):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client_side.getpeercert() or {}


@contextmanager
def _reported(sentence: Callable[[str], str]) -> Iterator[None]:
    """Turns an error of the TLS library into a CertificateError with a sentence made from the reason."""
    try:
        yield
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(sentence(_reason(error))) from error


def _reason(error: ssl.SSLError | ValueError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else "the PEM data is damaged"
