"""A certificate authority for tests of TLS. It needs openssl."""

import subprocess
from pathlib import Path

from ratelimitd.certificates import CertificateFiles
from tests.required_programs import need

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates. `file` holds its own.

    Args:
        folder: where all files are written.
        name: its name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        need("openssl")
        self._folder = folder
        self._key = folder / f"{name}.key"
        self.file = str(folder / f"{name}.pem")
        signed = ("-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(self._key), "-out", self.file)
        _openssl("req", *_NEW_KEY, *signed)

    def issue(self, name: str, *others: str, days: int = 1, file: str = "", ca: str = "") -> CertificateFiles:
        """Returns the files of a new certificate and its key.

        Args:
            name: a DNS name of it, and its subject.
            others: its other names, such as IP:127.0.0.1 or URI:spiffe://a/b.
            days: how long it is valid; a negative number makes one that has expired.
            file: the name of the files, if not `name`.
            ca: the authorities that its owner trusts; empty for this one.
        """
        base = self._folder / (file or name)
        request, names = base.with_suffix(".csr"), base.with_suffix(".ext")
        certificate, key = base.with_suffix(".pem"), base.with_suffix(".key")
        names.write_text(f"subjectAltName={','.join((f'DNS:{name}', *others))}\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-days", str(days), "-extfile", str(names)),
            *("-CA", self.file, "-CAkey", str(self._key), "-CAcreateserial", "-out", str(certificate)),
        )
        return CertificateFiles(str(certificate), str(key), ca or self.file)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
