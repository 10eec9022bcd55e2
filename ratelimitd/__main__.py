"""The `ratelimitd` command, also as `python -m ratelimitd`."""

import sys

INTERRUPTED = 130
"""The exit status that shells give to a command that Ctrl-C ended."""


def main() -> None:
    """Runs the command line. Ctrl-C during its imports ends it without a traceback."""
    try:
        import ratelimitd.store.redis_without_opentelemetry  # noqa: PLC0415, F401 - so that Ctrl-C can be caught
        from ratelimitd.cli.main import main as run  # noqa: PLC0415 - the same
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
