"""What the settings say about TLS between Envoy and the service."""

from collections.abc import Iterator

from ratelimitd.address import UnixAddress
from ratelimitd.certificates import CertificateFiles, ClientTls, ServerTls
from ratelimitd.settings_table import Settings, env_name

NEEDED = {
    "tls_cert_file": "tls_key_file",
    "tls_key_file": "tls_cert_file",
    "tls_client_ca_file": "tls_cert_file",
    "tls_client_names": "tls_client_ca_file",
    "check_cert_file": "check_key_file",
    "check_key_file": "check_cert_file",
    "check_server_name": "check_ca_file",
}
"""Settings that have an effect only together with another one."""


def listen_tls(settings: Settings) -> ServerTls | None:
    """Returns how the gRPC server uses TLS, or None if it does not."""
    if not settings.tls_cert_file:
        return None
    files = CertificateFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    return ServerTls(files, _client_names(settings))


def _client_names(settings: Settings) -> tuple[str, ...]:
    names = (name.strip() for name in settings.tls_client_names.split(","))
    return tuple(name for name in names if name)


def check_tls(settings: Settings) -> ClientTls | None:
    """Returns how clients of the service use TLS: `check` and the admin service; None if they do not."""
    if not settings.check_ca_file:
        return None
    files = CertificateFiles(settings.check_cert_file, settings.check_key_file, settings.check_ca_file)
    return ClientTls(files, settings.check_server_name)


def tls_problems(settings: Settings) -> Iterator[str]:
    """Yields a sentence for each setting of TLS that cannot work."""
    for name, needed in NEEDED.items():
        if getattr(settings, name) and not getattr(settings, needed):
            yield f"{env_name(name)} needs {env_name(needed)}, which is not set"
    if settings.tls_client_names and not _client_names(settings):  # no name would allow every client
        given = settings.tls_client_names
        yield f"{env_name('tls_client_names')} is {given!r}: must have a name between commas"
    if settings.tls_cert_file and isinstance(settings.listen_address(), UnixAddress):
        yield (
            f"{env_name('tls_cert_file')}: a Unix socket is served without TLS; protect it with "
            f"{env_name('listen_mode')}, or set {env_name('listen')} to HOST:PORT"
        )
