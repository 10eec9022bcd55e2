"""Text that UTF-8 can encode. Shell arguments and JSON escapes may hold lone surrogates, which it cannot."""


def encodable(text: str) -> str:
    """Returns the text with `?` in place of each character that UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()
