"""Options that several commands share, and the options that are made from settings."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer

from ratelimitd.settings import Settings, env_name

Json = Annotated[bool, typer.Option("--json", help="Print JSON, the same as the admin API.")]

RedisUrl = Annotated[
    str | None,
    typer.Option(
        help=f"URL of the service's store. [env: {env_name('redis_url')}]",
        metavar="URL",
        show_default=False,
    ),
]

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


def setting_options(names: Iterable[str]) -> Callable[[Command], Command]:
    """Gives a command that takes `**flags` one option for each of these settings.

    The flags that the user did not give are None, so that their environment variables hold.
    """
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, _setting_option(name)],
        )
        for name in names
    ]

    def decorate(command: Command) -> Command:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it
        return command

    return decorate


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
