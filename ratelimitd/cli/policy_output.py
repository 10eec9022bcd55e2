"""Prints policies, revisions and replicas. A refused text and a lost policy are always mentioned."""

from collections.abc import Sequence

import typer

from ratelimitd.cli import output
from ratelimitd.control.answers import CurrentPolicy, ReplicaStatus, Status
from ratelimitd.display import age
from ratelimitd.instants import iso_instant
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import parse
from ratelimitd.rollout.revision import Revision

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def print_current(current: CurrentPolicy, config_key: str) -> None:
    """Prints a revision and its policy in normal form."""
    _print_faults(current, config_key)
    _print_revision(current)
    output.print_line("")
    typer.echo(normal_text(parse(current.revision.text)), nl=False)


def print_status(status: Status, config_key: str) -> None:
    """Prints the policy in force, the replicas, and the shadow counts."""
    _print_faults(status, config_key)
    for warning in status.warnings:
        output.print_line(f"WARNING: {warning}", style="bold yellow")
    if status.warnings:
        output.print_line("")
    _print_revision(status, status.now_us)
    output.print_line("")
    if status.replicas:
        rows = [_replica(replica, status) for replica in status.replicas]
        output.print_table((">runs", "state", ">seen", ">up", "version", "replica"), rows)
    elif status.warnings:
        output.print_line("it is unknown which replicas run", style="bold yellow")
    else:
        output.print_line("no replica has reported in the last minute", style="bold yellow")
    if unreadable := sum(replica.unreadable_addresses for replica in status.replicas):
        output.print_line("")
        output.print_line(
            f"requests charged to the proxy, because the address header was missing or held no IP address: "
            f"{unreadable}; the log line address_unreadable shows the value",
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


def warn_of_faults(current: CurrentPolicy, config_key: str) -> None:
    """Warns of a refused text or a lost policy on standard error: standard output must hold nothing else."""
    for problem in current.refused:
        output.print_warning(f"REFUSED: the text at {config_key} is not in force: {problem}")
    if current.lost_us:
        output.print_warning(_lost(current, config_key))


def _print_faults(current: CurrentPolicy | Status, config_key: str) -> None:
    if current.refused:
        output.print_line(f"REFUSED: the text at {config_key} is not in force", style="bold red")
        for problem in current.refused:
            output.print_line(f"  {problem}", style="red")
        output.print_line("")
    if current.lost_us:
        output.print_line(_lost(current, config_key), style="bold red")
        output.print_line("")


def _lost(current: CurrentPolicy | Status, config_key: str) -> str:
    return (
        f"LOST: the store was emptied: {config_key} and its revisions are gone. The replicas still run "
        f"revision {current.revision.number} ({current.revision.digest}); "
        "write it back with: ratelimitd policy restore"
    )


def _print_revision(current: CurrentPolicy | Status, now_us: int | None = None) -> None:
    revision = current.revision
    accepted = "never: these are the defaults" if revision.number == 0 else "unknown"
    if not current.recorded and not current.lost_us:
        accepted = "not yet: the next change, or a running replica, records it"
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
