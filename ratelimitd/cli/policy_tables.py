"""How policies look to people. A text in the store that was refused is never passed over in silence."""

from collections.abc import Iterable, Sequence

import typer

from ratelimitd.cli import tables
from ratelimitd.control.answers import CurrentPolicy, ReplicaStatus, Status
from ratelimitd.display import age
from ratelimitd.errors import Problem
from ratelimitd.instants import iso_instant
from ratelimitd.policy.text import normal_text, parse
from ratelimitd.rollout.revision import Revision

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def print_current(current: CurrentPolicy, config_key: str) -> None:
    """A revision and, in normal form, what it says."""
    _print_refused(current.refused, config_key)
    _print_revision(current.revision)
    tables.say("")
    typer.echo(normal_text(parse(current.revision.text)), nl=False)


def print_status(status: Status, config_key: str) -> None:
    """What runs where."""
    _print_refused(status.refused, config_key)
    _print_revision(status.revision, status.now_us)
    tables.say("")
    if status.replicas:
        rows = [_replica(replica, status) for replica in status.replicas]
        tables.print_table((">runs", "state", ">seen", ">up", "version", "replica"), rows)
    else:
        tables.say("no replica runs", style="bold yellow")
    if status.shadow:
        tables.say("")
        tables.print_table(("in shadow", ">would have denied"), sorted(status.shadow.items()))


def print_history(revisions: Sequence[Revision]) -> None:
    """One row for each."""
    if revisions:
        rows = [(one.number, iso_instant(one.at_us), one.author, one.digest, one.note) for one in revisions]
        tables.print_table((">revision", "accepted", "author", "content", "note"), rows)
    else:
        tables.say("no policy was ever accepted: the defaults are in force")


def print_diff(diff: str) -> None:
    """A unified diff."""
    for line in diff.splitlines():
        tables.say(line, style=_DIFF_STYLES.get(line[:1]))


def warn_of_refused(problems: Iterable[Problem], config_key: str) -> None:
    """Where standard output belongs to something else: what `_print_refused` tells."""
    for problem in problems:
        tables.warn(f"REFUSED, and not in force, is the text at {config_key}: {problem}")


def _print_refused(problems: Sequence[Problem], config_key: str) -> None:
    if problems:
        tables.say(f"REFUSED: the text at {config_key} is not in force", style="bold red")
        for problem in problems:
            tables.say(f"  {problem}", style="red")
        tables.say("")


def _print_revision(revision: Revision, now_us: int | None = None) -> None:
    accepted = "never: these are the defaults" if revision.number == 0 else "unknown"
    if revision.at_us:
        accepted = iso_instant(revision.at_us)
        if now_us is not None:
            accepted += f" ({age(now_us - revision.at_us)} ago)"
    tables.print_fields(
        ("revision", revision.number),
        ("content", revision.digest),
        ("accepted", accepted),
        ("author", revision.author or None),
        ("note", revision.note or None),
    )


def _replica(replica: ReplicaStatus, status: Status) -> tuple[object, ...]:
    state = "behind" if replica.behind else "ok"
    if replica.refused is not None:
        state += f", refused: {replica.refused}"
    return (
        replica.number,
        state,
        f"{age(status.now_us - replica.seen_us)} ago",
        age(status.now_us - replica.started_us),
        f"{replica.version} {replica.transport}",
        replica.id,
    )
