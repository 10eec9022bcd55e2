"""The `ratelimitd` command: its subcommands, and the exit status of each error."""

import errno
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from ratelimitd import __version__
from ratelimitd.cli import bucket, policy
from ratelimitd.cli.admin import admin
from ratelimitd.cli.check import check
from ratelimitd.cli.demo import demo
from ratelimitd.cli.envoy import envoy
from ratelimitd.cli.exits import Exit, exit_status_help
from ratelimitd.cli.explain import explain
from ratelimitd.cli.health import health
from ratelimitd.cli.serve import serve
from ratelimitd.cli.top import top
from ratelimitd.cli.usage import usage
from ratelimitd.display import printable
from ratelimitd.errors import (
    ConflictError,
    NothingLostError,
    PolicyError,
    RatelimitdError,
    RequestSpecError,
    WaitError,
)
from ratelimitd.settings import CONFIG_KEY

EXITS: dict[type[RatelimitdError], Exit] = {
    RequestSpecError: Exit.USAGE,
    PolicyError: Exit.INVALID,
    ConflictError: Exit.CONFLICT,
    NothingLostError: Exit.CONFLICT,
    WaitError: Exit.BEHIND,
}
"""The exit status after such an error. Every other RatelimitdError leads to FAILED."""

app = typer.Typer(
    name="ratelimitd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_HELP = f"""Exact token-bucket rate limits for Envoy, kept in Redis.

\b
Try it:             ratelimitd demo
Run it:             ratelimitd serve --redis-url redis://127.0.0.1:6379/0
Without a Redis:    ratelimitd serve --redis-url embedded
Inside your Envoy:  ratelimitd envoy --config envoy.yaml
Change the limits:  ratelimitd policy apply limits.yaml --wait
Explain a decision: ratelimitd explain --user USER --path /api/ping
Use a browser:      ratelimitd admin

The limits are a JSON or YAML document in the Redis key {CONFIG_KEY}. Changing it needs no restart.
"""


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with one positional argument
    if wanted:
        typer.echo(f"ratelimitd {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Has only the options that need no subcommand."""


app.command(epilog=exit_status_help())(serve)
app.command(epilog=exit_status_help())(envoy)
app.command(epilog=exit_status_help())(admin)
app.command(epilog=exit_status_help())(health)
app.command(epilog=exit_status_help())(demo)
app.add_typer(policy.app)
app.command(epilog=exit_status_help(Exit.DENIED))(explain)
app.add_typer(bucket.app)
app.command(epilog=exit_status_help())(usage)
app.command(epilog=exit_status_help())(top)
app.command(epilog=exit_status_help(Exit.DENIED))(check)


def main() -> None:
    """Runs the command line. Errors become one line each on standard error, and an exit status."""
    if isinstance(sys.stdout, TextIOWrapper):  # names in policies may have characters that a terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except RatelimitdError as error:
        problems = error.problems if isinstance(error, PolicyError) else str(error).splitlines()
        for problem in problems:
            typer.echo(f"ratelimitd: {printable(str(problem))}", err=True)
        sys.exit(EXITS.get(type(error), Exit.FAILED))
    except OSError as error:
        if error.errno != errno.ENOSPC:  # any other OSError here is a defect
            raise
        typer.echo(f"ratelimitd: {error}", err=True)
        sys.exit(Exit.FAILED)
