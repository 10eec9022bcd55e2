"""The commands of `ratelimitd policy` that make a new revision."""

from collections.abc import Callable
from typing import Annotated

import typer

from ratelimitd.cli import output
from ratelimitd.cli.options import NO_FLAGS, Json, StoreFlags, store_options
from ratelimitd.cli.policy_queries import File, read_text, show_diff
from ratelimitd.cli.store import with_control
from ratelimitd.control.answers import AppliedRevision
from ratelimitd.control.control import Control
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revision import checked_author, checked_note

DEFAULT_AUTHOR = "cli"
"""The author where $USER is not set."""

WAIT_S = 10.0
"""Replicas take a new policy within a second; ten allow for a busy one."""


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Turns the ValueError of `check` into typer's error."""

    def callback(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return callback


Author = Annotated[
    str,
    typer.Option(
        envvar="USER",
        callback=_checked(checked_author),
        help="Author of the revision.",
        metavar="NAME",
        show_envvar=True,
    ),
]
Note = Annotated[
    str,
    typer.Option(
        callback=_checked(checked_note),
        help="Reason for the change, kept in the history.",
        metavar="TEXT",
        show_default=False,
    ),
]


def _expected(text: str) -> Expected:
    try:
        return Expected.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Expect = Annotated[
    Expected | None,
    typer.Option(
        parser=_expected,
        help="Write nothing unless N is the newest revision. A text that was written directly and is not "
        "recorded yet needs its digest too: N-DIGEST.",
        metavar="N",
        show_default=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when every replica runs the revision.")]
Timeout = Annotated[
    float,
    typer.Option("--timeout-s", help="Time limit for --wait, in seconds.", metavar="SECONDS", min=0.1),
]


@store_options
def apply(
    file: File,
    *,
    note: Note = "",
    author: Author = DEFAULT_AUTHOR,
    expect: Expect = None,
    timeout_s: Timeout = WAIT_S,
    store: StoreFlags = NO_FLAGS,
    wait: Wait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a policy in force as a new revision. Running replicas take it within a second."""
    text = read_text(file)
    if dry_run:
        show_diff(store, text, None, as_json=as_json, expected=expect)
        return

    async def change(control: Control) -> None:
        applied = await control.apply(text, author=author, note=note, expected=expect)
        await _report(control, applied, timeout_s if wait else None, as_json=as_json)

    with_control(store, change)


@store_options
def rollback(
    number: Annotated[int, typer.Argument(help="Revision to return to.", metavar="N", min=0)],
    *,
    note: Note = "",
    author: Author = DEFAULT_AUTHOR,
    expect: Expect = None,
    timeout_s: Timeout = WAIT_S,
    store: StoreFlags = NO_FLAGS,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Put the text of an earlier revision in force again, as a new revision."""

    async def change(control: Control) -> None:
        revision = await control.rollback(number, author=author, note=note, expected=expect)
        applied = AppliedRevision(revision=revision, advice=())
        await _report(control, applied, timeout_s if wait else None, as_json=as_json)

    with_control(store, change)


@store_options
def restore(
    *,
    note: Note = "",
    author: Author = DEFAULT_AUTHOR,
    timeout_s: Timeout = WAIT_S,
    store: StoreFlags = NO_FLAGS,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Write the policy that the replicas run back to a store that was emptied, as a new revision."""

    async def change(control: Control) -> None:
        applied = await control.restore(author=author, note=note, expected=None)
        await _report(control, applied, timeout_s if wait else None, as_json=as_json)

    with_control(store, change)


async def _report(control: Control, applied: AppliedRevision, wait_s: float | None, *, as_json: bool) -> None:
    """Prints the new revision, then waits for the replicas unless `wait_s` is None."""
    revision = applied.revision
    output.print_warnings(applied.advice)
    if as_json:
        output.print_json(applied)
    else:
        output.print_line(f"revision {revision.number} ({revision.digest}) is in force")
    if wait_s is not None:
        status = await control.wait(revision.number, wait_s)
        replicas = status.replicas
        for warning in status.warnings:
            output.print_warning(warning)
        if not replicas and not status.warnings:
            output.print_warning("no replica is running, so none has the revision yet")
        elif replicas and not as_json:
            output.print_line(f"every replica runs it: {', '.join(replica.id for replica in replicas)}")
