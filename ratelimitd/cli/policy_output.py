"""Prints policies, revisions and replicas. A refused text in the store is always mentioned."""

from collections.abc import Iterable, Sequence

import typer

from ratelimitd.cli import output
from ratelimitd.control.answers import CurrentPolicy, ReplicaStatus, Status
from ratelimitd.display import age
from ratelimitd.errors import Problem
from ratelimitd.instants import iso_instant
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import parse
from ratelimitd.rollout.revision import Revision

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def print_current(current: CurrentPolicy, config_key: str) -> None:
    """Prints a revision and its policy in normal form."""
    _print_refused(current.refused, config_key)
    _print_revision(current.revision)
    output.print_line("")
    typer.echo(normal_text(parse(current.revision.text)), nl=False)


def print_status(status: Status, config_key: str) -> None:
    """Prints the policy in force, the replicas, and the shadow counts."""
    _print_refused(status.refused, config_key)
    _print_revision(status.revision, status.now_us)
    output.print_line("")
    if status.replicas:
        rows = [_replica(replica, status) for replica in status.replicas]
        output.print_table((">runs", "state", ">seen", ">up", "version", "replica"), rows)
    else:
        output.print_line("no replica is running", style="bold yellow")
    if unreadable := sum(replica.unreadable_addresses for replica in status.replicas):
        output.print_line("")
        output.print_line(
            f"{unreadable} requests were charged to the proxy, because the address header held no IP "
            "address; the log line address_unreadable shows the value",
            style="bold yellow",
        )
    if status.shadow:
        output.print_line("")
        output.print_table(("in shadow", ">would have denied"), sorted(status.shadow.items()))


def print_history(revisions: Sequence[Revision]) -> None:
    """Prints a table of revisions."""
    if revisions:
        rows = [(one.number, iso_instant(one.at_us), one.author, one.digest, one.note) for one in revisions]
        output.print_table((">revision", "accepted", "author", "digest", "note"), rows)
    else:
        output.print_line("no policy has been accepted yet: the defaults are in force")


def print_diff(diff: str) -> None:
    """Prints a unified diff, with colours on a terminal."""
    for line in diff.splitlines():
        output.print_line(line, style=_DIFF_STYLES.get(line[:1]))


def warn_of_refused(problems: Iterable[Problem], config_key: str) -> None:
    """Warns of a refused text on standard error, where standard output must hold nothing else."""
    for problem in problems:
        output.print_warning(f"REFUSED: the text at {config_key} is not in force: {problem}")


def _print_refused(problems: Sequence[Problem], config_key: str) -> None:
    if problems:
        output.print_line(f"REFUSED: the text at {config_key} is not in force", style="bold red")
        for problem in problems:
            output.print_line(f"  {problem}", style="red")
        output.print_line("")


def _print_revision(revision: Revision, now_us: int | None = None) -> None:
    accepted = "never: these are the defaults" if revision.number == 0 else "unknown"
    if revision.at_us:
        accepted = iso_instant(revision.at_us)
        if now_us is not None:
            accepted += f" ({age(now_us - revision.at_us)} ago)"
    output.print_fields(
        ("revision", revision.number),
        ("digest", revision.digest),
        ("accepted", accepted),
        ("author", revision.author or None),
        ("note", revision.note or None),
    )


def _replica(replica: ReplicaStatus, status: Status) -> tuple[object, ...]:
    state = "behind" if replica.behind else "ok"
    if replica.silent:
        state = f"not seen for {age(replica.age_us(status.now_us))}, was {state}"
    if replica.refused is not None:
        state += f", refused: {replica.refused}"
    return (
        replica.number,
        state,
        f"{age(replica.age_us(status.now_us))} ago",
        age(status.now_us - replica.started_us),
        f"{replica.version} {replica.transport}",
        replica.id,
    )
