"""`ratelimitd envoy`: runs the user's Envoy with the service inside. This process becomes that Envoy."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ratelimitd import settings
from ratelimitd.app import HOSTED
from ratelimitd.cli.failure import logged_as_json
from ratelimitd.errors import FrontConfigError, MissingExtraError, SettingsError
from ratelimitd.settings import EMBEDDED, env_name
from ratelimitd.store.access import access_by
from ratelimitd.store.client import refuse_unsupported
from ratelimitd.telemetry.traces.variables import prepare_environment
from ratelimitd.transport.metrics_sockets import open_metrics_sockets


@logged_as_json({})
def envoy(
    config: Annotated[
        Path, typer.Option(help="Your Envoy configuration, YAML or JSON.", metavar="FILE", show_default=False)
    ],
    *,
    cluster: Annotated[str, typer.Option(help="Cluster that your ext_authz filter calls.")] = "ratelimitd",
    show: Annotated[
        bool, typer.Option("--print", help="Print the changed configuration instead of running Envoy.")
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Options for Envoy, after `--`: for example `-- --concurrency 2`.", metavar="[-- ARGS]"
        ),
    ] = None,
) -> None:
    """Run your Envoy with the service inside. The settings of the service come from the environment."""
    try:
        import yaml  # noqa: PLC0415 - of the extra `fast`

        from ratelimitd.transport.fast import bootstrap  # noqa: PLC0415 - of the extra `fast`
        from ratelimitd.transport.fast.embed import with_service  # noqa: PLC0415 - of the extra `fast`
    except ImportError as error:
        raise MissingExtraError(f"this needs {error.name}: pip install 'ratelimitd[fast]'") from error
    chosen = settings.load(os.environ, flags={})
    if chosen.redis_url == EMBEDDED:
        raise SettingsError(
            f"{env_name('redis_url')}: `embedded` works only with `serve`; use the URL of a store"
        )
    try:
        parsed: Any = yaml.safe_load(config.read_text())
        changed = with_service(parsed, app=HOSTED, cluster=cluster)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, FrontConfigError) as error:
        raise FrontConfigError(f"--config {config}: {error}") from error
    if show:
        typer.echo(yaml.safe_dump(changed, sort_keys=False), nl=False)
        return
    prepare_environment(os.environ)
    metrics_sockets = open_metrics_sockets(chosen, beside=None)
    asyncio.run(refuse_unsupported(access_by(chosen)))
    environ = {**os.environ, **settings.environment(chosen)}
    bootstrap.become(changed, environ=environ, arguments=arguments or [], metrics_sockets=metrics_sockets)
