"""`ratelimitd admin`: runs the HTTP API and the panel for operators."""

import os

from ratelimitd import settings
from ratelimitd.cli.failure import logged_as_json
from ratelimitd.cli.options import STORE_SETTINGS, setting_options
from ratelimitd.errors import MissingExtraError
from ratelimitd.process import event_loop

SETTINGS = (
    "admin_listen",
    "admin_key_file",
    "admin_read_key_file",
    "admin_check_target",
    "check_ca_file",
    "check_cert_file",
    "check_key_file",
    "check_server_name",
    *STORE_SETTINGS,
    "identity",
    "address_header",
    "key_prefix",
    "config_key",
    "log_level",
    "log_format",
)
"""The settings that are options here. A key is not, because `ps` would show it."""


@setting_options(SETTINGS)
def admin(**flags: str | None) -> None:
    """Run the HTTP API and the panel until SIGTERM.

    The keys come from RATELIMITD_ADMIN_KEY and RATELIMITD_ADMIN_READ_KEY or from files. Settings that the
    service has too, such as the key prefix, must have the same values here.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc would write lines about failed handshakes
    with logged_as_json(flags):
        try:
            from ratelimitd.admin.serve import serve_admin  # noqa: PLC0415 - its libraries are an extra
        except ImportError as error:
            raise MissingExtraError(
                f"the admin service needs {error.name}: pip install 'ratelimitd[admin]'"
            ) from error
        event_loop.run(serve_admin(settings.load(os.environ, flags=flags)))
