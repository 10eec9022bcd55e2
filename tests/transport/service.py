"""What every transport is tested with."""

MAX_MESSAGE_BYTES = 16_384
