"""TLS of the transport grpcio: certificates that change between handshakes, and names of clients."""

from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

import grpc

from ratelimitd.address import is_ip
from ratelimitd.certificates import Certificates
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError

_NAMES = "x509_subject_alternative_name"


class ChangingCertificates:
    """The certificates of a server, for each of its ports.

    A port keeps what it has until its function returns a change, so each port needs a function of its own.
    """

    def __init__(self, first: Certificates) -> None:
        self._first = first
        self._ports: list[list[Certificates]] = []

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of one more port."""
        changes: list[Certificates] = []
        self._ports.append(changes)

        def changed() -> "grpc.ServerCertificateConfiguration | None":
            # grpc calls this in a thread of its own, before each handshake.
            return _configuration(changes.pop()) if changes else None

        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._first),
            changed,  # type: ignore[arg-type] # None is allowed, and means no change
            require_client_authentication=bool(self._first.ca),
        )

    def use(self, certificates: Certificates) -> None:
        """Uses these for new connections."""
        for changes in self._ports:
            changes[:] = [certificates]


def _configuration(certificates: Certificates) -> "grpc.ServerCertificateConfiguration":
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.certificate)], root_certificates=certificates.ca or None
    )


class AllowedClients:
    """The names of which a client's certificate needs one."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(map(_normal, names))

    def check(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Raises CallError for a caller whose certificate has none of the names."""
        presented = context.auth_context().get(_NAMES, ())
        if self._names.isdisjoint(_normal(name.decode(errors="replace")) for name in presented):
            raise CallError(
                GrpcCode.PERMISSION_DENIED, "the name in the client's certificate is not allowed here"
            )


def _normal(name: str) -> str:
    """Returns one spelling for each name: an IP address in its shortest form, a host name in lower case."""
    if is_ip(name):
        return str(ip_address(name))
    return name if "://" in name else name.lower()
