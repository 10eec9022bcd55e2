"""Credentials from a class that the operator names, such as one that makes IAM tokens.

The class is a credential provider of redis-py: https://redis.io/docs/latest/develop/clients/redis-py/connect/
"""

import asyncio
import importlib
import inspect
import time
from typing import Any

import structlog
from redis.credentials import CredentialProvider, StreamingCredentialProvider
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.settings_table import env_name
from ratelimitd.store_source import Pair

INTERVAL_S = 60.0
"""Time between two questions for newer credentials. Tokens of the large clouds live 15 min or more."""

TIMEOUT_S = 5.0
"""How long a provider may take."""

_EXPECTED = "expected MODULE:CLASS, such as myiam:Tokens, which needs no arguments"


class Provided:
    """The credentials of a provider. If it fails, the last ones stay in use, and a line in the log says why.

    Args:
        name: MODULE:NAME of the class. Raises ValueError with a sentence if it is not a provider.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            self._provider = _load(name)
        except ValueError as error:
            raise ValueError(f"{env_name('redis_credentials')} is {name!r}: {error}") from error
        self._last: Pair | None = None
        self._compared: Pair | None = None
        self._poll_at_s = 0.0
        self._problem = ""
        self.generation = 0
        """How often `poll` found other credentials than before."""
        if isinstance(self._provider, StreamingCredentialProvider):
            self._provider.on_next(self._announced)
            self._provider.on_error(self._failed)

    async def find(self) -> Pair:
        """Returns the credentials of now. Raises ConnectionError if the provider never gave any."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._last = _checked(await self._ask())
        except TimeoutError:
            self._failed(TimeoutError(f"no answer within {TIMEOUT_S:g} s"))
        except Exception as error:  # noqa: BLE001 - the operator's class may raise anything
            self._failed(error)
        else:
            self._problem = ""
        self._compared = self._compared or self._last
        if self._last is None:
            raise NotConnectedError(self._problem)
        return self._last

    async def poll(self) -> None:
        """Asks for newer credentials if it is time to. Raises ConnectionError as `find` does."""
        if time.monotonic() >= self._poll_at_s:
            self._poll_at_s = time.monotonic() + INTERVAL_S
            found = await self.find()
            self.generation += found != self._compared
            self._compared = found

    async def _ask(self) -> Any:
        """Calls the provider: its coroutine if it has one, else its method, which may block, in a thread."""
        provider: Any = self._provider
        method = getattr(type(provider), "get_credentials_async", None)
        if method not in {None, CredentialProvider.get_credentials_async}:
            return await provider.get_credentials_async()
        if inspect.iscoroutinefunction(provider.get_credentials):
            return await provider.get_credentials()
        return await asyncio.to_thread(provider.get_credentials)

    def _announced(self, _token: object) -> None:
        """Makes the next `poll` ask. The provider may call it in any thread."""
        self._poll_at_s = 0.0

    def _failed(self, error: Exception) -> None:
        problem = f"the credential provider {self._name} failed: {type(error).__name__}: {error}"
        if problem != self._problem:
            self._problem = problem
            structlog.get_logger("ratelimitd.store").error("store_credentials_failed", reason=problem)


def _load(name: str) -> Any:
    """Returns an instance of the class. Raises ValueError."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"it is not a class; {_EXPECTED}")
    try:
        kind = getattr(importlib.import_module(module), attribute)
        provider = kind()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"it cannot be imported: {error}; {_EXPECTED}") from error
    except Exception as error:
        raise ValueError(f"it cannot be used: {type(error).__name__}: {error}; {_EXPECTED}") from error
    if not hasattr(provider, "get_credentials") and not hasattr(provider, "get_credentials_async"):
        raise ValueError("it has no method get_credentials; expected a CredentialProvider of redis-py")
    return provider


def _checked(found: Any) -> Pair:
    """Returns credentials of the right form. Raises TypeError without showing them."""
    if (
        not isinstance(found, tuple)
        or len(found) not in {1, 2}
        or not all(isinstance(part, str) for part in found)
    ):
        raise TypeError("it must return (username, password) or (password,)")
    return found
