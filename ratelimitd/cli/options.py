"""Options that several commands share, and the options that are made from settings."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast

import typer

from ratelimitd.settings import Settings, env_name

Json = Annotated[bool, typer.Option("--json", help="Print JSON, the same as the admin API.")]

STORE_SETTINGS = (
    "redis_url",
    "redis_url_file",
    "redis_username",
    "redis_password_file",
    "redis_credentials",
    "sentinel_username",
    "sentinel_password_file",
)
"""The settings that say how to reach the store."""

StoreFlags = Mapping[str, str | None]
"""Options of STORE_SETTINGS by the name of the setting; None for those that the user did not give."""

NO_FLAGS: StoreFlags = MappingProxyType({})

Address = Annotated[
    str | None, typer.Option(help="IP address of the client.", metavar="IP", show_default=False)
]

Key = Annotated[
    str | None,
    typer.Option(
        help="Key of an identity, as `explain` and `top` print it.", metavar="KEY", show_default=False
    ),
]

Command = TypeVar("Command", bound=Callable[..., Any])


def store_options(command: Command) -> Command:
    """Gives a command an option for each of STORE_SETTINGS, in place of its parameter `store`."""

    @wraps(command)
    def run(**given: Any) -> Any:
        store = {name: given.pop(name) for name in STORE_SETTINGS}
        return command(**given, store=store)

    own = [one for one in inspect.signature(command).parameters.values() if one.name != "store"]
    run.__signature__ = inspect.Signature([*own, *_parameters(STORE_SETTINGS)])  # type: ignore[attr-defined] # typer reads it
    return cast("Command", run)


def setting_options(names: Iterable[str]) -> Callable[[Command], Command]:
    """Gives a command that takes `**flags` one option for each of these settings.

    The flags that the user did not give are None, so that their environment variables hold.
    """
    parameters = _parameters(names)

    def decorate(command: Command) -> Command:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it
        return command

    return decorate


def _parameters(names: Iterable[str]) -> list[inspect.Parameter]:
    """Returns parameters that become the options of these settings."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, _setting_option(name)],
        )
        for name in names
    ]


def _setting_option(name: str) -> Any:
    """The option of a setting; its help is the setting's description."""
    field = Settings.model_fields[name]
    default = getattr(field.default, "value", field.default)
    shown = f"[default: {default}]" if default != "" else ""
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description} {shown} [env: {env_name(name)}]",
        show_default=False,
        metavar="VALUE",
    )
