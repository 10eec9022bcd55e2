"""TLS of the Envoy that hosts the service, which reads its certificates from a folder when they change.

The folder is private, in memory where the system has /dev/shm, and holds a key only until the Envoy has it.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ratelimitd.address import Address, is_ip
from ratelimitd.certificates import Certificates, ServerTls
from ratelimitd.errors import ListenError
from ratelimitd.transport.fast.bootstrap import Config
from ratelimitd.transport.rotation import until_presented

IN_MEMORY = "/dev/shm"  # noqa: S108 - the folder made in it is private
_CERTIFICATE, _CLIENTS, _EXPIRY = "certificate", "clients", "expiry"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


class HostCertificates:
    """The certificates of the host's listener, in a folder from which the host reads them."""

    def __init__(self, folder: Path, client_names: Sequence[str]) -> None:
        self._folder = folder
        self._client_names = client_names
        self._written: Certificates | None = None

    def write(self, certificates: Certificates) -> None:
        """Lets the host read these. It keeps the last ones if it cannot use them."""
        before, self._written = self._written, certificates
        if before is None or before[:2] != certificates[:2]:
            chain, key = certificates.certificate.decode(), certificates.key.decode()
            pair = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
            self._replace(_CERTIFICATE, {"tls_certificate": pair})
        if certificates.ca and (before is None or before.ca != certificates.ca):
            trusted = {"trusted_ca": {"inline_string": certificates.ca.decode()}}
            names = {"match_typed_subject_alt_names": [_matcher(name) for name in self._client_names]}
            self._replace(_CLIENTS, {"validation_context": trusted | names})

    @property
    def expiry_file(self) -> Path:
        """The file with the time, in seconds since the epoch, at which the certificate in use expires."""
        return self._folder / _EXPIRY

    async def use(self, address: Address, certificates: Certificates) -> None:
        """Writes these, and returns once the host presents them at `address`. Raises CertificateError."""
        before = self._written
        self.write(certificates)
        # With the same first certificate, nothing shows whether the host has read the file.
        await self.used(
            address, certificates, remove_key=before is None or before.first != certificates.first
        )

    async def used(self, address: Address, certificates: Certificates, *, remove_key: bool = True) -> None:
        """Returns once the host presents these at `address`, and has read the key if it is to be removed.

        Raises CertificateError.
        """
        await until_presented(address, certificates)
        if remove_key:
            (self._folder / _CERTIFICATE).unlink(missing_ok=True)
        self._write(_EXPIRY, str(certificates.expires_s))

    def transport_socket(self, *, client_certificates: bool) -> Config:
        """Returns the part of the listener's configuration that turns TLS on."""
        common: Config = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [self._source(_CERTIFICATE)],
        }
        if client_certificates:
            common["validation_context_sds_secret_config"] = self._source(_CLIENTS)
        context = {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": client_certificates,
        }
        return {"name": "envoy.transport_sockets.tls", "typed_config": context}

    def _source(self, name: str) -> Config:
        source = {"path_config_source": {"path": str(self._folder / name)}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    def _replace(self, name: str, secret: Config) -> None:
        """Writes a secret. Envoy reads the file again when another one is moved to its place."""
        resource = {"@type": f"{_TLS}.Secret", "name": name, **secret}
        self._write(name, json.dumps({"resources": [resource]}))

    def _write(self, name: str, text: str) -> None:
        """Replaces a file at once, so that no reader sees a part of it."""
        new = self._folder / f".{name}"
        new.write_text(text)
        new.replace(self._folder / name)


@contextmanager
def host_certificates(tls: ServerTls, first: Certificates) -> Iterator[HostCertificates]:
    """Yields the certificates in a folder that exists until the end of the block. Raises ListenError."""
    try:
        # The folder gets mode 700.
        folder = tempfile.mkdtemp(
            prefix="ratelimitd-", dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
        )
    except OSError as error:
        raise ListenError(
            "TLS with the transport fast needs a folder for temporary files, and there is none "
            f"({error.strerror}): make /dev/shm or /tmp writable, or use the transport grpcio"
        ) from error
    try:
        certificates = HostCertificates(Path(folder), tls.client_names)
        certificates.write(first)
        yield certificates
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _matcher(name: str) -> Config:
    """Returns what matches one name of a client's certificate."""
    kind = "IP_ADDRESS" if is_ip(name) else "URI" if "://" in name else "DNS"
    if kind == "DNS":  # with `exact`, Envoy would also accept a wildcard certificate
        return {"san_type": kind, "matcher": {"safe_regex": {"regex": f"(?i){re.escape(name)}"}}}
    return {"san_type": kind, "matcher": {"exact": name}}
