"""How long to wait between two attempts to connect: not at all after a long connection, a second at most."""

from collections.abc import Callable

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
"""The pause after an attempt that failed doubles from the first to the last of these."""

LASTING_S = 0.25
"""A connection that lasted this long resets the pause. After shorter ones it doubles up to this time."""


class Pause:
    """The pause between the starts of two attempts.

    Without it, a store that accepts connections and closes them would be called without end.

    Args:
        now_s: a monotonic clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._pause_s = 0.0

    def begin(self) -> None:
        """Notes the start of an attempt."""
        self._began_s = self._now_s()

    def after(self, *, failed: bool) -> float:
        """Seconds until the next attempt, now that the connection ended or, if `failed`, was of no use."""
        lasted_s = self._now_s() - self._began_s
        if failed:
            pause_s, longest_s = max(self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S
        elif lasted_s < LASTING_S:
            pause_s, longest_s = min(self._pause_s, LASTING_S), LASTING_S
        else:
            pause_s, longest_s = 0.0, LASTING_S
        self._pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), longest_s)
        return pause_s - lasted_s
