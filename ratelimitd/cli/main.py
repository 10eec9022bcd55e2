"""The command line: parses, calls, and turns every error of ours into one sentence and exit status 1."""

import sys
from typing import Annotated

import typer

from ratelimitd import __version__
from ratelimitd.cli.demo import demo
from ratelimitd.cli.envoy import envoy
from ratelimitd.cli.health import health
from ratelimitd.cli.serve import serve
from ratelimitd.errors import RatelimitdError

app = typer.Typer(
    name="ratelimitd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback shape
    if wanted:
        typer.echo(f"ratelimitd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exact token-bucket rate limits for Envoy, kept in Redis.

    Try it:          ratelimitd demo

    Run it:          ratelimitd serve --redis-url redis://127.0.0.1:6379/0

    Run it alone:    ratelimitd serve --redis-url embedded

    In your Envoy:   ratelimitd envoy --config envoy.yaml

    Limits are JSON in Redis at rate_limit:config and change without a restart: see the README.
    """


app.command()(serve)
app.command()(envoy)
app.command()(health)
app.command()(demo)


def main() -> None:
    """Entry point of the `ratelimitd` script."""
    try:
        app()
    except RatelimitdError as error:
        for line in str(error).splitlines():
            typer.echo(f"ratelimitd: {line}", err=True)
        sys.exit(1)
