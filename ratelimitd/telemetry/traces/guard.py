"""Logs the errors of code that makes spans, so that no decision fails because of its span."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ratelimitd.bounded_log import BoundedLog

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Calls functions, and logs their errors instead of raising them."""

    def __init__(self) -> None:
        self._log = BoundedLog("ratelimitd.traces")

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Returns the result of the function, or None if it raised an Exception."""
        try:
            return function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever it is, the decision stands
            self._log.exception("span_failed")
            return None
