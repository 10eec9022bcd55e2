"""Changes of bytes that decoders often handle badly."""

from random import Random

_BAD_INTEGERS = (b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80" * 10, b"\x00" * 4)
"""Variable-length integers, as in protobuf and HPACK, that are too large or too long."""


def mutated(data: bytes, random: Random) -> bytes:
    """Returns the bytes after one to four changes: flips, insertions, cuts, repetitions, bad integers."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << random.randrange(8)
            case 1:
                changed[at:at] = random.randbytes(random.randint(1, 16))
            case 2:
                del changed[at : at + random.randint(1, 16)]
            case 3:
                changed[at:at] = changed[at : at + random.randint(1, 64)]
            case 4:
                changed[at:at] = random.choice(_BAD_INTEGERS)
            case _:
                del changed[at:]
    return bytes(changed)
