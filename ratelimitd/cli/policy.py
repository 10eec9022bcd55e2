"""`ratelimitd policy`: look at the limits, change them, and take a change back."""

import asyncio
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ratelimitd.cli import policy_tables, tables
from ratelimitd.cli.exits import Exit, told
from ratelimitd.cli.explain import Json
from ratelimitd.cli.store import RedisUrl, chosen, control_over
from ratelimitd.control.answers import AppliedRevision, CurrentPolicy, History, PolicyDiff
from ratelimitd.control.control import Control
from ratelimitd.errors import ConflictError, PolicyError
from ratelimitd.policy.schema import schema_text
from ratelimitd.policy.validation import validate as validate_policy
from ratelimitd.rollout.revisions import KEPT, checked_author, checked_note

app = typer.Typer(
    name="policy",
    help="Look at the limits, change them, and take a change back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """`check` as the command line wants it."""

    def callback(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return callback


File = Annotated[
    typer.FileBinaryRead,
    typer.Argument(help="The policy, JSON or YAML; - is standard input.", metavar="FILE", show_default=False),
]
Author = Annotated[
    str,
    typer.Option(
        envvar="USER",
        callback=_checked(checked_author),
        help="Who the revision says did it.",
        metavar="NAME",
        show_envvar=True,
    ),
]
Note = Annotated[
    str,
    typer.Option(
        callback=_checked(checked_note), help="Why, for the history.", metavar="TEXT", show_default=False
    ),
]
Expect = Annotated[
    int | None,
    typer.Option(
        help="The newest revision you know: if there is a newer one, nothing is written.",
        metavar="N",
        min=0,
        show_default=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when every replica has it.")]
Timeout = Annotated[
    float,
    typer.Option("--timeout-s", help="How long to wait for that, in seconds.", metavar="SECONDS", min=0.1),
]


@app.command(epilog=told())
def show(
    revision: Annotated[
        int | None,
        typer.Option(help="An earlier one, instead of the newest.", metavar="N", min=0, show_default=False),
    ] = None,
    redis_url: RedisUrl = None,
    *,
    text: Annotated[bool, typer.Option("--text", help="Print its text alone, as it was written.")] = False,
    as_json: Json = False,
) -> None:
    """Show the policy in force, or an earlier one."""
    if text and as_json:
        raise typer.BadParameter("choose --text or --json", param_hint="--text")
    current = asyncio.run(_shown(redis_url, revision))
    if text:
        policy_tables.warn_of_refused(current.refused, chosen(redis_url).config_key)
        typer.echo(current.revision.text, nl=sys.stdout.isatty())
    elif not as_json:
        policy_tables.print_current(current, chosen(redis_url).config_key)
    elif revision is None:
        tables.print_json(current)
    else:
        tables.print_json(current.revision)


async def _shown(redis_url: str | None, number: int | None) -> CurrentPolicy:
    async with control_over(redis_url) as control:
        return (
            await control.current()
            if number is None
            else CurrentPolicy(revision=await control.revision(number), refused=())
        )


@app.command(epilog=told(Exit.INVALID))
def validate(file: File, *, as_json: Json = False) -> None:
    """Say what is wrong with a policy. It needs no store."""
    result = validate_policy(file.read())
    if as_json:
        tables.print_json(result)
    elif result.valid:
        tables.warn_of(result.advice)
        tables.say(f"{file.name} is a valid policy")
    else:
        raise PolicyError(*result.problems)
    if not result.valid:
        raise typer.Exit(Exit.INVALID)


@app.command(epilog=told(Exit.INVALID, Exit.CONFLICT, Exit.BEHIND))
def apply(  # noqa: PLR0917 - typer makes them flags
    file: File,
    note: Note = "",
    author: Author = "cli",
    expect: Expect = None,
    timeout_s: Timeout = 10.0,
    redis_url: RedisUrl = None,
    *,
    wait: Wait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a policy in force. Every replica is told at once, and has it within a second."""
    text = _text(file)
    if dry_run:
        asyncio.run(_diffed(redis_url, text, None, as_json=as_json, expected=expect))
        return

    async def run() -> None:
        async with control_over(redis_url) as control:
            applied = await control.apply(text, author=author, note=note, expected=expect)
            await _accepted(control, applied, timeout_s if wait else None, as_json=as_json)

    asyncio.run(run())


def _text(file: typer.FileBinaryRead) -> str:
    # Bytes that are no UTF-8 get through to where a policy is refused for them.
    return file.read().decode(errors="surrogateescape")


async def _accepted(
    control: Control, applied: AppliedRevision, timeout_s: float | None, *, as_json: bool
) -> None:
    """Tells of a new revision first, for it stands; then waits for it when there is a time to wait."""
    revision = applied.revision
    tables.warn_of(applied.advice)
    if as_json:
        tables.print_json(applied)
    else:
        tables.say(f"revision {revision.number} ({revision.digest}) is in force")
    if timeout_s is not None:
        replicas = (await control.wait(revision.number, timeout_s)).replicas
        if not replicas:
            tables.warn("no replica runs, so none has it yet")
        elif not as_json:
            tables.say(f"every replica has it: {', '.join(replica.id for replica in replicas)}")


@app.command(epilog=told(Exit.INVALID))
def diff(
    file: File,
    against: Annotated[
        int | None,
        typer.Option(help="A revision, instead of the newest.", metavar="N", min=0, show_default=False),
    ] = None,
    redis_url: RedisUrl = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what a policy would change: both in normal form, so that only a meaning makes a difference."""
    asyncio.run(_diffed(redis_url, _text(file), against, as_json=as_json))


async def _diffed(
    redis_url: str | None, text: str, against: int | None, *, as_json: bool, expected: int | None = None
) -> None:
    async with control_over(redis_url) as control:
        if expected is not None and (newest := (await control.current()).revision).number != expected:
            raise ConflictError(f"the newest revision is {newest.number}, by {newest.author}, not {expected}")
        found = await control.diff(text, against)
        tables.warn_of(validate_policy(text).advice)
    if as_json:
        tables.print_json(PolicyDiff.of(found))
    elif found:
        policy_tables.print_diff(found)
    else:
        typer.echo("ratelimitd: no difference: both mean the same", err=True)


@app.command(epilog=told())
def history(
    limit: Annotated[int, typer.Option(help="How many, at most.", min=1, max=KEPT)] = 20,
    redis_url: RedisUrl = None,
    *,
    as_json: Json = False,
) -> None:
    """List the revisions, newest first."""

    async def run() -> None:
        async with control_over(redis_url) as control:
            revisions = await control.history(limit)
        if as_json:
            tables.print_json(History(revisions=revisions))
        else:
            policy_tables.print_history(revisions)

    asyncio.run(run())


@app.command(epilog=told(Exit.CONFLICT, Exit.BEHIND))
def rollback(  # noqa: PLR0917 - typer makes them flags
    number: Annotated[int, typer.Argument(help="The revision to go back to.", metavar="N", min=0)],
    note: Note = "",
    author: Author = "cli",
    expect: Expect = None,
    timeout_s: Timeout = 10.0,
    redis_url: RedisUrl = None,
    *,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Put an earlier policy in force again, as a new revision."""

    async def run() -> None:
        async with control_over(redis_url) as control:
            revision = await control.rollback(number, author=author, note=note, expected=expect)
            await _accepted(
                control,
                AppliedRevision(revision=revision, advice=()),
                timeout_s if wait else None,
                as_json=as_json,
            )

    asyncio.run(run())


@app.command(epilog=told())
def status(redis_url: RedisUrl = None, *, as_json: Json = False) -> None:
    """Show which policy is in force, which replica runs which, and what shadows would have denied."""

    async def run() -> None:
        async with control_over(redis_url) as control:
            found = await control.status()
        if as_json:
            tables.print_json(found)
        else:
            policy_tables.print_status(found, chosen(redis_url).config_key)

    asyncio.run(run())


@app.command(epilog=told())
def schema(*, as_json: Json = False) -> None:  # noqa: ARG001 - it is JSON already
    """Print the JSON Schema of a policy, for editors."""
    typer.echo(schema_text(), nl=False)
