"""Channels of clients that call a service: plain, or with TLS."""

from collections.abc import Sequence

import grpc

from ratelimitd.address import Address, UnixAddress
from ratelimitd.certificates import ClientTls, read_certificates

Options = Sequence[tuple[str, int | str]]

_OTHER_AUTHORITY = "its certificate is not of an authority in {ca}"
_REASONS = {
    "self signed certificate": _OTHER_AUTHORITY,
    "unable to get local issuer": _OTHER_AUTHORITY,
    "unable to verify the first": _OTHER_AUTHORITY,
    "certificate has expired": "its certificate has expired",
    "certificate is not yet valid": "its certificate is not valid yet",
    "Hostname Verification": "its certificate does not have the name {name}",
    "WRONG_VERSION_NUMBER": "it does not use TLS",
    "TSI_DATA_CORRUPTED": "it refuses the client's certificate, or wants one",
}
"""What texts in the errors of grpc mean."""


def credentials(tls: ClientTls | None, address: Address) -> grpc.ChannelCredentials | None:
    """Returns the credentials of a channel; None for a plain one, as to a Unix socket.

    Reads the files, so it may block. Raises CertificateError.
    """
    if tls is None or isinstance(address, UnixAddress):
        return None
    certificate, key, ca, _ = read_certificates(tls.files)
    return grpc.ssl_channel_credentials(ca, key or None, certificate or None)


def options(tls: ClientTls | None) -> Options:
    """Returns the options of a channel. It uses no proxy of the environment."""
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls and tls.server_name else []
    return [("grpc.enable_http_proxy", 0), *named]


def tls_failure(details: str, tls: ClientTls | None, address: Address) -> str:
    """Returns what is wrong with a TLS connection, by the details of the error; empty if unknown."""
    if tls is None or isinstance(address, UnixAddress):
        return ""
    known = (sentence for text, sentence in _REASONS.items() if text in details)
    return next(known, "").format(ca=tls.files.ca, name=tls.server_name or address.host)
