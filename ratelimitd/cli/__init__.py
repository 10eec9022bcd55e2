"""The `ratelimitd` command: thin, each file one subcommand."""
