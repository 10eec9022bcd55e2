"""A flag for a setting: its help is the setting's own description."""

from typing import Any

import typer

from ratelimitd.settings import Settings, env_name


def flag(name: str) -> Any:
    """The typer option of the setting `name`; not given, it is None, and the environment stands."""
    field = Settings.model_fields[name]
    default = getattr(field.default, "value", field.default)
    shown = f"[default: {default}]" if default != "" else ""
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description} {shown} [env: {env_name(name)}]",
        show_default=False,
        metavar="VALUE",
    )
