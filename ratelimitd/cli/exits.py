"""What an exit status means, the same for every command. `cli/main.py` says which error ends with which."""

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """An exit status and what it tells a script."""

    meaning: str

    def __new__(cls, status: int, meaning: str) -> Self:
        """A status with its meaning."""
        exit_status = int.__new__(cls, status)
        exit_status._value_ = status
        exit_status.meaning = meaning
        return exit_status

    DONE = 0, "done; `explain` and `check`: allowed; `health`: it serves"
    FAILED = 1, "failed: the store is away, a setting is bad, nobody answers"
    USAGE = 2, "the command line is wrong"
    INVALID = 3, "the policy is not valid"
    CONFLICT = 4, "somebody else changed the policy first, and nothing was written"
    BEHIND = 5, "it is in force, but not every replica has it yet"
    DENIED = 6, "`explain` and `check`: denied"


def told(*exits: Exit) -> str:
    """For the end of a command's help: how it may end, beside done, failed and usage."""
    every = sorted({Exit.DONE, Exit.FAILED, Exit.USAGE, *exits})
    # \b keeps the lines as they are.
    return "\b\n" + "\n".join(["Exit status:", *(f"  {status:d}  {status.meaning}" for status in every)])
