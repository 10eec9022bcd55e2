"""Reads a small text file with a secret, such as a mounted Kubernetes secret. No error shows its content."""

import stat
from pathlib import Path

MAX_BYTES = 65_536
"""More than any password, token or URL has. It bounds how long a read takes."""


def read_secret(path: str) -> str:
    """Returns the one line of a file, without white space around it.

    Raises ValueError with a sentence if there is no such line.
    """
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("it is a directory; expected a file")
        if not stat.S_ISREG(mode):  # a pipe would block, and can be read only once
            raise ValueError("it is not a regular file")
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror or type(error).__name__}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"the file has more than {MAX_BYTES} bytes")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None  # the error would show a part of the secret
    if not text:
        raise ValueError("the file is empty")
    if not text.isprintable():
        raise ValueError("the file must hold one line without control characters")
    return text
