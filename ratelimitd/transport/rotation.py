"""Certificates of a listener that change while it runs. If new ones cannot be used, the last stay in use."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from ratelimitd.address import Address, TcpAddress
from ratelimitd.certificates import CertificateFiles, Certificates, file_contents, read_certificates
from ratelimitd.errors import CertificateError

POLL_INTERVAL_S = 1.0
"""How often the files are read. A watch of their folder would miss a symbolic link that changes elsewhere."""

PRESENTED_WITHIN_S = 5.0
_PROBE_INTERVAL_S = 0.02

Use = Callable[[Certificates], Awaitable[None]]
"""Puts certificates in use for new connections. Raises CertificateError when the listener refuses them."""


async def follow(
    files: CertificateFiles, used: Certificates, use: Use, *, poll_interval_s: float = POLL_INTERVAL_S
) -> None:
    """Calls `use` when the files hold other certificates that are valid. Never returns.

    A problem is logged when two readings in a row find it, since files may change one after the other.

    Args:
        files: where the certificates are.
        used: the certificates in use.
        use: gets the new ones.
        poll_interval_s: seconds between two readings.
    """
    log = structlog.get_logger("ratelimitd.tls")
    seen: tuple[bytes, ...] = used[:3]
    problem = ""
    logged = False
    while True:
        await asyncio.sleep(poll_interval_s)
        try:
            contents = await asyncio.to_thread(file_contents, files)
            if contents != seen:
                new = await asyncio.to_thread(read_certificates, files)
                await use(new)
                seen = new[:3]
                log.info("tls_certificates_changed", not_after=new.not_after)
            problem, logged = "", False
        except CertificateError as error:
            if str(error) != problem:
                problem, logged = str(error), False
            elif not logged:
                log.warning("tls_certificates_refused", reason=problem)
                logged = True


async def until_presented(address: Address, certificates: Certificates) -> None:
    """Returns once the listener at `address` presents this certificate.

    Raises CertificateError if it does not: its TLS library supports fewer kinds of keys than Python's.
    """
    if not isinstance(address, TcpAddress):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(PRESENTED_WITHIN_S):
            while await _presented(address.reachable) != certificates.first:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(_PROBE_INTERVAL_S)
            return
    raise CertificateError(
        "the gRPC server does not accept the certificate; expected a common kind of key, such as RSA with "
        "2048 bits or ECDSA with the curve P-256"
    )


async def _presented(address: TcpAddress) -> bytes | None:
    """Returns the certificate, in DER, that a server presents; None if there is no handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except OSError:
        return None
    certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return certificate
