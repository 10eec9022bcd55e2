"""A value that is read from files again and again, and keeps its last good version when reading fails."""

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")


class LastGood(Generic[T]):
    """A value from files. Each new problem is one log line.

    Args:
        setting: the setting that names the files, for the log.
        read: returns the value. Raises ValueError with a sentence, now as well.
    """

    def __init__(self, setting: str, read: Callable[[], T]) -> None:
        self._setting = setting
        self._read = read
        self._problem = ""
        self.value = read()

    def refresh(self) -> None:
        """Reads the value again. It stays if the files cannot be used."""
        try:
            self.value = self._read()
            problem = ""
        except ValueError as error:
            problem = str(error)
        if problem and problem != self._problem:
            log = structlog.get_logger("ratelimitd.store")
            log.error("store_file_refused", setting=self._setting, reason=problem)
        self._problem = problem
