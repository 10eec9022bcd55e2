"""The command line: parses, calls, and turns every error of ours into a sentence and an exit status."""

import errno
import sys
from typing import Annotated

import typer

from ratelimitd import __version__
from ratelimitd.cli import bucket, policy
from ratelimitd.cli.admin import admin
from ratelimitd.cli.check import check
from ratelimitd.cli.demo import demo
from ratelimitd.cli.envoy import envoy
from ratelimitd.cli.exits import Exit, told
from ratelimitd.cli.explain import explain
from ratelimitd.cli.health import health
from ratelimitd.cli.serve import serve
from ratelimitd.cli.tables import printable
from ratelimitd.errors import ConflictError, PolicyError, RatelimitdError, RequestSpecError, WaitError

EXITS: dict[type[RatelimitdError], Exit] = {
    RequestSpecError: Exit.USAGE,
    PolicyError: Exit.INVALID,
    ConflictError: Exit.CONFLICT,
    WaitError: Exit.BEHIND,
}
"""How a command ends that met such an error. After every other one of ours it has failed."""

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

    Change limits:   ratelimitd policy apply limits.yaml --wait

    Ask why:         ratelimitd explain --user USER --path /api/ping

    In a browser:    ratelimitd admin

    Limits are a text in Redis at rate_limit:config and change without a restart: see the README.
    """


app.command(epilog=told())(serve)
app.command(epilog=told())(envoy)
app.command(epilog=told())(admin)
app.command(epilog=told())(health)
app.command(epilog=told())(demo)
app.add_typer(policy.app)
app.command(epilog=told(Exit.DENIED))(explain)
app.add_typer(bucket.app)
app.command(epilog=told(Exit.DENIED))(check)


def main() -> None:
    """Entry point of the `ratelimitd` script."""
    try:
        app()
    except RatelimitdError as error:
        problems = error.problems if isinstance(error, PolicyError) else str(error).splitlines()
        for problem in problems:
            typer.echo(f"ratelimitd: {printable(str(problem))}", err=True)
        sys.exit(EXITS.get(type(error), Exit.FAILED))
    except OSError as error:
        if error.errno != errno.ENOSPC:  # anything else is nobody's disk but a defect
            raise
        typer.echo(f"ratelimitd: {error}", err=True)
        sys.exit(Exit.FAILED)
