"""`ratelimitd policy`: shows, checks and changes the policy."""

import typer

from ratelimitd.cli.exits import Exit, exit_status_help
from ratelimitd.cli.policy_changes import apply, restore, rollback
from ratelimitd.cli.policy_queries import diff, history, schema, show, status, validate

app = typer.Typer(
    name="policy",
    help="Show, check and change the policy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command(epilog=exit_status_help())(show)
app.command(epilog=exit_status_help(Exit.INVALID))(validate)
app.command(epilog=exit_status_help(Exit.INVALID, Exit.CONFLICT, Exit.BEHIND))(apply)
app.command(epilog=exit_status_help(Exit.INVALID))(diff)
app.command(epilog=exit_status_help())(history)
app.command(epilog=exit_status_help(Exit.CONFLICT, Exit.BEHIND))(rollback)
app.command(epilog=exit_status_help(Exit.INVALID, Exit.CONFLICT, Exit.BEHIND))(restore)
app.command(epilog=exit_status_help())(status)
app.command(epilog=exit_status_help())(schema)
