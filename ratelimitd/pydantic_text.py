"""Rewords pydantic's validation messages for ratelimitd's own error messages."""


def reason_of(message: str) -> str:
    """Returns a validator's message in our wording: `Input should be a number` becomes `must be a number`."""
    text = message.removeprefix("Value error, ")
    text = text.replace("Input should ", "must ")
    return text[:1].lower() + text[1:]
