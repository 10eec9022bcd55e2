"""Loads the settings from the environment and from flags. No other module reads variables of ratelimitd."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ratelimitd.errors import SettingsError
from ratelimitd.pydantic_text import reason_of
from ratelimitd.service_links import is_service_link
from ratelimitd.settings_table import (
    CONFIG_KEY,
    MAX_BATCH,
    MAX_IN_FLIGHT,
    OFF,
    PREFIX,
    Settings,
    env_name,
)
from ratelimitd.store_source import EMBEDDED
from ratelimitd.tls_settings import tls_problems

__all__ = [
    "CONFIG_KEY",
    "EMBEDDED",
    "MAX_BATCH",
    "MAX_IN_FLIGHT",
    "OFF",
    "PREFIX",
    "Settings",
    "env_name",
    "environment",
    "load",
]

SECRET = {"redis_url", "admin_key", "admin_read_key"}
"""Settings whose value is never shown. A URL may contain a password."""

MIN_SIMILARITY = 0.62
"""A setting less similar to an unknown name is not suggested; `transport` is 0.615 for `port`."""

EMPTY_MEANS_OFF = {"metrics_listen"}
"""Settings whose variable counts as set when it is empty, because that turns something off."""


def environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables from which `load` makes these settings."""
    found = {env_name(name): str(value) for name, value in settings.model_dump(mode="json").items()}
    if settings.redis_url_file:
        found[env_name("redis_url")] = ""  # its default would contradict the file
    return found


def load(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> Settings:
    """Makes settings from the environment and from flags, which win unless they are None.

    White space around a value is removed. A variable without a value counts as not set, but for
    EMPTY_MEANS_OFF; a flag without one does not, since it may be meant to win over a variable. Raises
    SettingsError with all problems, one per line.
    """
    given: dict[str, Any] = {}
    problems = []
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and not is_service_link(variable, value):
            name = variable.removeprefix(PREFIX).lower()
            if name not in Settings.model_fields:
                problems.append(f"unknown setting {variable}; {_suggestion(variable)}")
            elif value.strip() or name in EMPTY_MEANS_OFF:
                given[name] = value.strip()
    flagged = {name: value.strip() for name, value in flags.items() if value is not None}
    problems += _two_urls(given, flagged)
    given |= flagged
    try:
        settings = Settings.model_validate(given)
        problems += tls_problems(settings)
    except ValidationError as error:
        problems += [_problem(given, **problem) for problem in error.errors(include_url=False)]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _two_urls(given: dict[str, Any], flagged: dict[str, str]) -> list[str]:
    """Removes the variable that an option replaces: URL or file. Returns a problem if both are left."""
    for name, other in (("redis_url", "redis_url_file"), ("redis_url_file", "redis_url")):
        if flagged.get(name) and other not in flagged:
            given.pop(other, None)
    merged = given | flagged
    if merged.get("redis_url") and merged.get("redis_url_file"):
        return [
            f"{env_name('redis_url')} and {env_name('redis_url_file')} are set; expected only one of them"
        ]
    return []


def _suggestion(variable: str) -> str:
    name = variable.removeprefix(PREFIX).lower()
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=MIN_SIMILARITY)
    if near:
        return f"did you mean {env_name(near[0])}?"
    return f"expected one of {', '.join(env_name(name) for name in Settings.model_fields)}"


def _problem(given: Mapping[str, str], *, loc: tuple[str | int, ...], msg: str, **_: object) -> str:
    if not loc:  # settings that contradict each other
        return msg.removeprefix("Value error, ")
    name = str(loc[0])
    shown = "" if name in SECRET else f" is {given[name]!r}"
    return f"{env_name(name)}{shown}: {reason_of(msg)}"
