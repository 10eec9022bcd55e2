"""When the certificate expires that new connections get. It is a metric of the process that decides.

With `fast`, the process that follows the certificates is another one, and writes the time into a file.
"""

from collections.abc import Mapping
from pathlib import Path

from ratelimitd.certificates import Certificates

EXPIRY_FILE = "_RATELIMITD_EXPIRY_FILE"
"""The environment variable that names the file to the application."""


class CertificateExpiry:
    """Returns, when called, the time in seconds since the epoch; None without TLS.

    Args:
        file: where another process writes it, if one does.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._expires_s: int | None = None

    def __call__(self) -> int | None:
        """Returns the time. Any thread may call it."""
        if self._file is None:
            return self._expires_s
        try:
            return int(self._file.read_text())
        except (OSError, ValueError):  # there is no listener yet, or it has just ended
            return None

    def note(self, certificates: Certificates) -> None:
        """Notes that new connections get these certificates."""
        self._expires_s = certificates.expires_s


def expiry_from(environ: Mapping[str, str]) -> CertificateExpiry:
    """Returns the expiry that the process which started this one writes."""
    file = environ.get(EXPIRY_FILE)
    return CertificateExpiry(Path(file) if file else None)
