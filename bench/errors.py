"""The error of the bench."""


class BenchError(Exception):
    """The bench cannot run, or a load failed and its figures would be worthless."""
