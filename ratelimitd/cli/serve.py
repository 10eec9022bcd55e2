"""`ratelimitd serve`: runs the service."""

import os

from ratelimitd import app, settings
from ratelimitd.cli.failure import logged_as_json
from ratelimitd.cli.options import setting_options
from ratelimitd.process import event_loop
from ratelimitd.settings import Settings


@setting_options(name for name in Settings.model_fields if not name.startswith(("admin_", "check_")))
def serve(**flags: str | None) -> None:
    """Run the service until SIGTERM. An option wins over its environment variable."""
    with logged_as_json(flags):
        event_loop.run(app.serve(settings.load(os.environ, flags=flags)))
