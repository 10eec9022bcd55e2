"""The `ratelimitd` command. Each subcommand is a thin module over `ratelimitd.control` or the service."""
