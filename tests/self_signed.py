"""Makes a certificate that signs itself, for tests of TLS."""

import subprocess
from pathlib import Path

from tests.required_programs import need


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Writes cert.pem, valid for the host name `name`, and key.pem to a folder. Returns their paths."""
    need("openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", key, "-out", certificate, "-days", "1", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name}"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
