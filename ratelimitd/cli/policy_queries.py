"""The commands of `ratelimitd policy` that change nothing."""

import sys
from typing import Annotated

import typer

from ratelimitd.cli import output, policy_output
from ratelimitd.cli.exits import Exit
from ratelimitd.cli.options import NO_FLAGS, Json, StoreFlags, store_options
from ratelimitd.cli.store import load_settings, with_control
from ratelimitd.control.answers import CurrentPolicy, History, PolicyDiff
from ratelimitd.control.control import Control
from ratelimitd.errors import ConflictError, PolicyError
from ratelimitd.policy.schema import schema_text
from ratelimitd.policy.validation import validate as validate_policy
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revisions import HISTORY_LENGTH, KEPT

File = Annotated[
    typer.FileBinaryRead,
    typer.Argument(
        help="File with the policy, JSON or YAML; - is standard input.", metavar="FILE", show_default=False
    ),
]


@store_options
def show(
    revision: Annotated[
        int | None,
        typer.Option(
            help="Show this revision instead of the newest.", metavar="N", min=0, show_default=False
        ),
    ] = None,
    store: StoreFlags = NO_FLAGS,
    *,
    text: Annotated[bool, typer.Option("--text", help="Print only the text, as it was written.")] = False,
    as_json: Json = False,
) -> None:
    """Show the policy in force or an earlier revision."""
    if text and as_json:
        raise typer.BadParameter("choose --text or --json", param_hint="--text")

    async def read(control: Control) -> CurrentPolicy:
        if revision is None:
            return await control.current()
        return CurrentPolicy(revision=await control.revision(revision), lost_us=0)

    current = with_control(store, read)
    config_key = load_settings(store).config_key
    if text:
        policy_output.warn_of_faults(current, config_key)
        typer.echo(current.revision.text, nl=sys.stdout.isatty())
    elif not as_json:
        policy_output.print_current(current, config_key)
    else:
        output.print_json(current if revision is None else current.revision)


def validate(file: File, *, as_json: Json = False) -> None:
    """Check a policy, without a store. Warnings point out parts that have no effect."""
    result = validate_policy(file.read())
    if as_json:
        output.print_json(result)
    elif result.valid:
        output.print_warnings(result.advice)
        output.print_line(f"{file.name} is a valid policy")
    else:
        raise PolicyError(*result.problems)
    if not result.valid:
        raise typer.Exit(Exit.INVALID)


def read_text(file: typer.FileBinaryRead) -> str:
    """Returns the text of a policy. Bytes that are not UTF-8 become surrogates, which parsing rejects."""
    return file.read().decode(errors="surrogateescape")


@store_options
def diff(
    file: File,
    against: Annotated[
        int | None,
        typer.Option(
            help="Compare with this revision instead of the newest.",
            metavar="N",
            min=0,
            show_default=False,
        ),
    ] = None,
    store: StoreFlags = NO_FLAGS,
    *,
    as_json: Json = False,
) -> None:
    """Show what a policy would change. Both are compared in normal form, so only their meaning counts."""
    show_diff(store, read_text(file), against, as_json=as_json)


def show_diff(
    store: StoreFlags, text: str, against: int | None, *, as_json: bool, expected: Expected | None = None
) -> None:
    """Prints the difference that `text` would make.

    Raises PolicyError, and ConflictError if the newest revision is not the expected one.
    """

    async def compare(control: Control) -> str:
        newest = (await control.current()).revision
        if expected is not None and not expected.names(newest):
            raise ConflictError(f"the newest revision is {newest.tag}, by {newest.author}, not {expected}")
        return await control.diff(text, against)

    found = with_control(store, compare)
    output.print_warnings(validate_policy(text).advice)
    if as_json:
        output.print_json(PolicyDiff.of(found))
    elif found:
        policy_output.print_diff(found)
    else:
        typer.echo("ratelimitd: no difference: both policies mean the same", err=True)


@store_options
def history(
    limit: Annotated[
        int, typer.Option(help="Maximum number of revisions.", metavar="N", min=1, max=KEPT)
    ] = HISTORY_LENGTH,
    store: StoreFlags = NO_FLAGS,
    *,
    as_json: Json = False,
) -> None:
    """List the revisions, newest first."""
    revisions = with_control(store, lambda control: control.history(limit))
    if as_json:
        output.print_json(History(revisions=revisions))
    else:
        policy_output.print_history(revisions)


@store_options
def status(store: StoreFlags = NO_FLAGS, *, as_json: Json = False) -> None:
    """Show the policy in force, the revision of each replica, and what shadow rules would have denied."""
    found = with_control(store, lambda control: control.status())
    if as_json:
        output.print_json(found)
    else:
        policy_output.print_status(found, load_settings(store).config_key)


def schema(*, as_json: Json = False) -> None:  # noqa: ARG001 - the schema is JSON in any case
    """Print the JSON Schema of a policy, for editors."""
    typer.echo(schema_text(), nl=False)
