"""Tests of reading certificates, and of the sentence for each kind of file that cannot be used."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ratelimitd.certificates import CertificateFiles, file_contents, read_certificates
from ratelimitd.errors import CertificateError
from tests.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Returns an authority."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture
def files(authority: Authority) -> CertificateFiles:
    """Returns the files of a certificate."""
    return authority.issue("name")


def test_certificates_are_the_contents_of_the_files(authority: Authority, files: CertificateFiles) -> None:
    Path(files.certificate).write_bytes(file_contents(files)[0] + Path(authority.file).read_bytes())
    read = read_certificates(files)
    assert read[:3] == file_contents(files)
    assert read.not_after.endswith(" GMT")
    assert read_certificates(CertificateFiles("", "", authority.file)).ca


def damage(path: str) -> None:
    """Replaces the content between the first and the last line."""
    first, *_, last = Path(path).read_text().splitlines()
    Path(path).write_text(f"{first}\nAAAA\n{last}\n")


def encrypt(path: str) -> None:
    """Protects a key with a password."""
    subprocess.run(
        ["openssl", "ec", "-in", path, "-aes128", "-passout", "pass:secret", "-out", path],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("which", "change", "sentence"),
    [
        ("certificate", lambda path: Path(path).unlink(), "cannot read {}: No such file or directory"),
        ("certificate", lambda path: Path(path).write_text(""), "{} has no certificate in PEM format"),
        ("key", lambda path: Path(path).write_text(""), "{} has no private key in PEM format"),
        ("key", encrypt, "the key in {} needs a password; expected a key without one"),
        ("key", damage, "{certificate} and {} cannot be used: the PEM data is damaged"),
        (
            "ca",
            lambda path: Path(path).write_text(""),
            "{} has no certificate in PEM format; expected those of",
        ),
        ("ca", damage, "the certificates in {} cannot be used: the PEM data is damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(
    authority: Authority, tmp_path: Path, which: str, change: Callable[[str], object], sentence: str
) -> None:
    files = authority.issue("name")
    own = tmp_path / "ca.pem"
    own.write_bytes(Path(files.ca).read_bytes())
    files = files._replace(ca=str(own))
    path = getattr(files, which)
    change(path)
    with pytest.raises(CertificateError) as error:
        read_certificates(files)
    assert str(error.value).startswith(sentence.format(path, certificate=files.certificate))


def test_a_certificate_needs_its_own_key_and_must_be_valid_now(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(CertificateError, match="does not belong to the first certificate in"):
        read_certificates(one._replace(key=other.key))
    with pytest.raises(CertificateError, match="is not valid: certificate has expired"):
        read_certificates(authority.issue("old", days=-1))
