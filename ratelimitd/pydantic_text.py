"""Rewords pydantic's validation messages for ratelimitd's own error messages."""


def reason_of(message: str) -> str:
    """Returns a validator's message in our wording: `Input should be a number` becomes `must be a number`."""
    text = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    text = text.replace("Input should ", "must ").replace("a valid integer", "a whole number")
    return text[:1].lower() + text[1:]
