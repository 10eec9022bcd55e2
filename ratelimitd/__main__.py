"""`python -m ratelimitd` is the `ratelimitd` command."""

from ratelimitd.cli.main import main

if __name__ == "__main__":
    main()
