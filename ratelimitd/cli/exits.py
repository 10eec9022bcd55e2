"""Exit statuses, the same for all commands. `cli/main.py` says which error leads to which status."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INVALID = 3
    CONFLICT = 4
    BEHIND = 5
    DENIED = 6


MEANINGS = {
    Exit.DONE: "done; `explain` and `check`: allowed; `health`: serving",
    Exit.FAILED: "failed: for example, the store is unreachable or a setting is wrong",
    Exit.USAGE: "the command line is wrong",
    Exit.INVALID: "the policy is not valid",
    Exit.CONFLICT: "another change of the policy came first, and nothing was written",
    Exit.BEHIND: "the policy is in force, but not every replica runs it yet",
    Exit.DENIED: "`explain` and `check`: denied",
}
"""The meaning of each status, in the help of the commands and in docs/cli.md."""


def exit_status_help(*exits: Exit) -> str:
    """Returns the end of a command's help: DONE, FAILED, USAGE and `exits` with their meanings."""
    possible = sorted({Exit.DONE, Exit.FAILED, Exit.USAGE, *exits})
    # \b stops click from joining the lines.
    return "\b\n" + "\n".join(["Exit status:", *(f"  {status:d}  {MEANINGS[status]}" for status in possible)])
