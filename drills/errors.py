"""The errors of the drills."""


class DrillError(Exception):
    """The drills cannot run, or a part of the system did not do what a drill needs."""


class NotPossibleError(Exception):
    """A drill cannot run on this machine. The text says what it needs."""
