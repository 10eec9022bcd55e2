"""`ratelimitd admin`: the API and the panel for operators."""

import asyncio
import os
from typing import Annotated

from ratelimitd import settings
from ratelimitd.cli.flags import flag
from ratelimitd.errors import MissingExtraError


def admin(  # noqa: PLR0917 - typer makes them flags
    admin_listen: Annotated[str | None, flag("admin_listen")] = None,
    admin_key_file: Annotated[str | None, flag("admin_key_file")] = None,
    admin_read_key_file: Annotated[str | None, flag("admin_read_key_file")] = None,
    admin_check_target: Annotated[str | None, flag("admin_check_target")] = None,
    redis_url: Annotated[str | None, flag("redis_url")] = None,
    identity: Annotated[str | None, flag("identity")] = None,
    address_header: Annotated[str | None, flag("address_header")] = None,
    key_prefix: Annotated[str | None, flag("key_prefix")] = None,
    config_key: Annotated[str | None, flag("config_key")] = None,
    log_level: Annotated[str | None, flag("log_level")] = None,
) -> None:
    """Show and change limits over HTTP, by an API and a panel, until SIGTERM.

    Keys come from RATELIMITD_ADMIN_KEY and RATELIMITD_ADMIN_READ_KEY, or from files; a flag would be seen in
    `ps`. Identity, prefix and keys must be those of the service.
    """
    flags = locals()
    try:
        from ratelimitd.admin.serve import serve_admin  # noqa: PLC0415 - its libraries are an extra
    except ImportError as error:
        raise MissingExtraError(
            f"the admin service needs {error.name}: pip install 'ratelimitd[admin]'"
        ) from error
    asyncio.run(serve_admin(settings.load(os.environ, flags=flags)))
